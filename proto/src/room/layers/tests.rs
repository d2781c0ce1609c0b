//! Of choices, in virtual time.
