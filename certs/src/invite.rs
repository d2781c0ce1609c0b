//! Invite links: the relay's full fingerprint and a secret that lets devices in.
//!
//! ```text
//! vchat://HOST:PORT/#<base32 of: version 1 | pin of the relay 32 | token 16 | check 2>
//! ```
//! The secret is in the fragment, which no web browser or proxy sends anywhere. The pin is complete, so whoever has the
//! link can be deceived by nobody but its author, and there is nothing to compare or to guess. The check (the first bytes of a
//! SHA-256 over what comes before it) tells a link that was cut or mistyped from one of another relay; it protects nothing.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use ring::digest::{Context, SHA256, digest};
use zeroize::{Zeroize, Zeroizing};

use crate::authority::Authority;
use crate::pin::Pin;
use crate::random::{self, NoRandomness};

/// 128 random bits: whoever shows them to the relay that made them may pair.
///
/// Has no text form of its own and is wiped when dropped, so that it reaches no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<[u8; TOKEN_BYTES]>);

impl Token {
    /// A new token.
    pub fn generate() -> Result<Self, NoRandomness> {
        random::bytes().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// The token that a peer sent; none if these bytes cannot be one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// For the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0[..]
    }

    /// What a relay keeps of the token. With 128 random bits behind it, neither salt nor a slow hash would add anything; and
    /// looking it up by equality tells an attacker no more than the hash of what he sent.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        let mut context = Context::new(&SHA256);
        context.update(HASH_LABEL);
        context.update(self.as_bytes());
        let mut hash = TokenHash([0; 32]);
        hash.0.copy_from_slice(context.finish().as_ref());
        hash
    }
}

/// SHA-256 of a [`Token`], from which the token cannot be found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenHash(pub [u8; 32]);

/// An invite: where the relay is, who it is, and the secret that lets a device in.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    /// Where the relay is looked for.
    pub relay: Authority,
    /// Who it is.
    pub pin: Pin,
    /// What lets us in.
    pub token: Token,
}

/// Says where and who, not the secret.
impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("relay", &self.relay).field("pin", &self.pin).finish_non_exhaustive()
    }
}

/// A text is no invite link. The text is not repeated: it may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Something else.
    #[error("this is no invite link: it begins with {SCHEME} and has a # with letters and digits behind it")]
    Form,
    /// The part between scheme and fragment names no relay.
    #[error("this invite link is damaged: it does not say where the relay is; copy all of it")]
    Relay,
    /// The fragment is damaged.
    #[error("this invite link is damaged or not complete: copy all of it, up to the last letter")]
    Damaged,
    /// A later version.
    #[error("this invite link is of a newer vchat (version {0}): update this one")]
    Version(u8),
}

impl Link {
    /// Whether a text means to be an invite link.
    #[must_use]
    pub fn is_meant_by(text: &str) -> bool {
        text.get(..SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(SCHEME))
    }
}

/// Shows the secret: for the one person who asked for an invite, not for logs.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut payload = [&[VERSION][..], &self.pin.0, self.token.as_bytes()].concat();
        payload.extend(check(&payload));
        let mut text = BASE32_NOPAD.encode(&payload).to_ascii_lowercase();
        let written = write!(f, "{SCHEME}{}/#{text}", self.relay);
        payload.zeroize();
        text.zeroize();
        written
    }
}

impl FromStr for Link {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let text = text.trim();
        if !Self::is_meant_by(text) || text.len() > MAX_LINK_BYTES {
            return Err(LinkError::Form);
        }
        let (relay, fragment) = text[SCHEME.len()..].split_once('#').ok_or(LinkError::Form)?;
        let relay = relay.strip_suffix('/').unwrap_or(relay).parse().map_err(|_| LinkError::Relay)?;
        let payload =
            BASE32_NOPAD.decode(fragment.to_ascii_uppercase().as_bytes()).map_err(|_| LinkError::Damaged)?;
        let (content, told) = payload.split_last_chunk::<CHECK_BYTES>().ok_or(LinkError::Damaged)?;
        if check(content) != *told {
            return Err(LinkError::Damaged);
        }
        let (version, content) = content.split_first().ok_or(LinkError::Damaged)?;
        if *version != VERSION {
            return Err(LinkError::Version(*version));
        }
        let (pin, token) = content.split_first_chunk::<32>().ok_or(LinkError::Damaged)?;
        let token = Token::from_bytes(token).ok_or(LinkError::Damaged)?;
        Ok(Self { relay, pin: Pin(*pin), token })
    }
}

fn check(content: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = digest(&SHA256, content);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&hash.as_ref()[..CHECK_BYTES]);
    check
}

/// How an invite link begins.
pub const SCHEME: &str = "vchat://";

const VERSION: u8 = 1;
const TOKEN_BYTES: usize = 16;
/// One damaged link in 65536 passes and then meets a relay that does not know its token.
const CHECK_BYTES: usize = 2;
/// Beyond the longest host name (253), scheme, port and the 82 letters behind it.
const MAX_LINK_BYTES: usize = 400;
/// Keeps the hash of a token apart from every other hash.
const HASH_LABEL: &[u8] = b"vchat invite token v1";

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        let relay = "relay.example:4433".parse().expect("a relay");
        Link { relay, pin: Pin(std::array::from_fn(|i| i as u8)), token: Token(Zeroizing::new([0xa5; 16])) }
    }

    #[test]
    fn a_link_is_these_letters_for_ever() {
        let text = link().to_string();
        let fragment = "aeaacaqdaqcqmbyibefawdanbyhraeiscmkbkfqxdamrugy4dupb7jnfuws2ljnfuws2ljnfuws2ljk2ui";
        assert_eq!(text, format!("vchat://relay.example:4433/#{fragment}"));
    }

    #[test]
    fn a_link_reads_back_in_any_case_and_with_space_around() {
        let text = link().to_string();
        for variant in [
            text.clone(),
            text.to_uppercase(),
            format!("  {text}\n"),
            text.replacen("/#", "#", 1),
            text.replacen("VCHAT", "vchat", 1),
        ] {
            assert_eq!(variant.parse(), Ok(link()), "{variant}");
        }
        let longest =
            Link { relay: format!("{}:65535", "x".repeat(253)).parse().expect("a relay"), ..link() };
        let text = longest.to_string();
        assert_eq!(text.parse(), Ok(longest));
        let padded = format!("vchat://{}/#{}", "x".repeat(253), "a".repeat(400 - 253 - 10));
        assert_eq!((padded.len(), padded.parse::<Link>()), (400, Err(LinkError::Damaged)));
        assert_eq!(format!("{padded}a").parse::<Link>(), Err(LinkError::Form), "too long to be looked at");
        let v6 = Link { relay: "[::1]:7".parse().expect("a relay"), ..link() };
        assert_eq!(v6.to_string().parse(), Ok(v6));
    }

    #[test]
    fn every_cut_and_every_changed_letter_is_noticed() {
        let text = link().to_string();
        let fragment = text.find('#').expect("there") + 1;
        for end in 0..text.len() {
            assert!(text[..end].parse::<Link>().is_err(), "cut at {end}");
        }
        assert!(format!("{text}a").parse::<Link>().is_err());
        let mut slipped = 0;
        for at in fragment..text.len() {
            for letter in "abcdefghijklmnopqrstuvwxyz234567018-".chars() {
                let changed = format!("{}{letter}{}", &text[..at], &text[at + 1..]);
                slipped += usize::from(changed != text && changed.parse::<Link>().is_ok());
            }
        }
        assert!(slipped <= 1, "{slipped} of 2870 single errors were not noticed");
    }

    #[test]
    fn what_is_no_link_is_told_and_never_repeated() {
        let secret = link().to_string();
        let fragment = &secret[secret.find('#').expect("there")..];
        let huge = format!("vchat://{}/#a", "x".repeat(10_000));
        for (text, error) in [
            ("", LinkError::Form),
            ("vchat:/", LinkError::Form),
            ("https://relay.example/#abc", LinkError::Form),
            ("vchat://relay.example", LinkError::Form),
            (&huge, LinkError::Form),
            (&format!("vchat://{fragment}"), LinkError::Relay),
            (&format!("vchat://a b/{fragment}"), LinkError::Relay),
            (&format!("vchat://user@host/{fragment}"), LinkError::Relay),
            ("vchat://relay.example/#", LinkError::Damaged),
            ("vchat://relay.example/#aaaa", LinkError::Damaged),
            ("vchat://relay.example/#äöü", LinkError::Damaged),
        ] {
            let found = text.parse::<Link>();
            assert_eq!(found, Err(error), "{text}");
            assert!(!format!("{found:?}").contains(&fragment[1..20]));
        }
    }

    #[test]
    fn a_later_version_is_told_apart_from_damage() {
        let mut payload = vec![2; 60];
        payload.extend(check(&payload));
        let text = format!("vchat://relay.example/#{}", BASE32_NOPAD.encode(&payload));
        assert_eq!(text.parse::<Link>(), Err(LinkError::Version(2)));
        let mut short = vec![VERSION; 40];
        short.extend(check(&short));
        let text = format!("vchat://relay.example/#{}", BASE32_NOPAD.encode(&short));
        assert_eq!(text.parse::<Link>(), Err(LinkError::Damaged));
    }

    #[test]
    fn tokens_differ_and_so_do_their_hashes() {
        let (a, b) = (Token::generate().expect("random"), Token::generate().expect("random"));
        assert!(a != b && a.hash() != b.hash());
        assert!(a.hash() == Token::from_bytes(a.as_bytes()).expect("16 bytes").hash());
        assert!(a.hash().0[..] != *digest(&SHA256, a.as_bytes()).as_ref(), "labelled");
        assert!(Token::from_bytes(&[0; 15]).is_none() && Token::from_bytes(&[0; 17]).is_none());
    }

    #[test]
    fn nothing_that_is_printed_for_debugging_shows_the_secret() {
        let Link { pin, .. } = link();
        let relay = "Authority { host: \"relay.example\", port: 4433 }";
        assert_eq!(format!("{:?}", link()), format!("Link {{ relay: {relay}, pin: {pin}, .. }}"));
    }
}
