//! How much the gate allows, and why that much.

/// What a [`super::Gate`] allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Strangers at once.
    pub strangers: u32,
    /// Strangers at once of one network; of one site too, or the holder of a /48 could take all places.
    pub strangers_per_network: u32,
    /// Strangers under way before addresses must be validated.
    pub easy_strangers: u32,
    /// Handshakes a second, and at once, before addresses must be validated.
    pub easy_handshakes: (u32, u32),
    /// Retries a second, and at once.
    pub retries: (u32, u32),
    /// Refusals a second, and at once.
    pub refusals: (u32, u32),
    /// Failures of one network a minute, and at once.
    pub failures: (u32, u32),
    /// Handshakes of one validated network a second, and at once, whatever comes of them.
    pub handshakes: (u32, u32),
    /// Networks remembered. Should be well above twice the strangers, each of whom may need two.
    pub networks: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Each takes 50 to 80 kB, 9 MiB together at most.
            strangers: 112,
            // One network leaves some room for others, and a hundred people of a large office come back at once.
            strangers_per_network: 100,
            // More people come at once only after a restart. It is also what a forger can keep busy.
            easy_strangers: 32,
            // Signatures for 50 handshakes take 15 ms of a second. The burst lets the members of some rooms come back.
            easy_handshakes: (50, 100),
            // Who is not answered repeats itself after one second, then two, four: with 5000 Retries among 20,000 forged
            // packets people waited up to seven seconds, with all of them answered as long as ever. Each takes 4 µs of
            // the relay and sends an eighth of what came in; these are 24 Mb/s, to whoever the forger names.
            retries: (20_000, 2000),
            // A refusal spares an honest client the wait. An attacker needs no answer.
            refusals: (50, 50),
            // A person mistypes a code a few times; at five a minute a guesser tries 7200 a day.
            failures: (5, 10),
            // A few percent of a core even for a member that only shakes hands; the burst is a large office that comes
            // back after a restart, three times over.
            handshakes: (50, 400),
            // Some 250 bytes each: about 1 MiB.
            networks: 4096,
        }
    }
}
