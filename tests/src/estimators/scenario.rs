//! The networks on which estimators are compared.

/// A network, and a call on it.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// The network over time, as `vchat-netem` takes it: `up` is the way of the media, `down` that of the reports.
    pub script: &'static str,
    /// First target, in kb/s.
    pub start_kbps: u64,
    /// What the application can use, in kb/s.
    pub max_kbps: u64,
    /// Calls that share the link.
    pub flows: usize,
    /// How long it takes.
    pub seconds: u64,
    /// Time in which figures of the steady state are taken, in seconds.
    pub steady: (u64, u64),
    /// When the link becomes narrow and wide again, in seconds.
    pub steps: Option<(u64, u64)>,
}

const BASE: Scenario = Scenario {
    name: "",
    script: "",
    start_kbps: 700,
    max_kbps: 2500,
    flows: 1,
    seconds: 40,
    steady: (10, 40),
    steps: None,
};

/// All of them.
pub const SCENARIOS: [Scenario; 23] = [
    Scenario { name: "lan", script: "0s delay=1ms", ..BASE },
    Scenario { name: "loss 5 %", script: "0s delay=25ms loss=5%", ..BASE },
    Scenario { name: "loss 10 %", script: "0s delay=25ms loss=10%", ..BASE },
    Scenario { name: "loss 20 %", script: "0s delay=25ms loss=20%", ..BASE },
    Scenario { name: "bursts of 4, 30 %", script: "0s delay=25ms loss=30% burst=4", ..BASE },
    Scenario { name: "500k", script: "0s delay=10ms\n0s up rate=500k buffer=300ms", ..BASE },
    Scenario {
        name: "500k, 700 kb/s source",
        script: "0s delay=10ms\n0s up rate=500k buffer=300ms",
        max_kbps: 700,
        ..BASE
    },
    Scenario {
        name: "500k, 5 % loss",
        script: "0s delay=25ms loss=5%\n0s up rate=500k buffer=300ms",
        ..BASE
    },
    Scenario { name: "500k, queue of 50 ms", script: "0s delay=10ms\n0s up rate=500k buffer=50ms", ..BASE },
    Scenario { name: "300k", script: "0s delay=25ms\n0s up rate=300k buffer=300ms", ..BASE },
    Scenario { name: "1M", script: "0s delay=25ms\n0s up rate=1M buffer=300ms", ..BASE },
    Scenario { name: "2M, jitter", script: "0s delay=15ms jitter=5ms\n0s up rate=2M buffer=300ms", ..BASE },
    Scenario {
        name: "step 2M-500k-2M",
        script: "0s delay=25ms\n0s up rate=2M buffer=300ms\n20s up rate=500k\n40s up rate=2M",
        seconds: 60,
        steady: (50, 60),
        steps: Some((20, 40)),
        ..BASE
    },
    Scenario { name: "wifi", script: "0s delay=10ms jitter=5ms loss=1% burst=2", ..BASE },
    Scenario { name: "wifi, jitter of 30 ms", script: "0s delay=20ms jitter=15ms loss=1% burst=2", ..BASE },
    Scenario {
        name: "4g",
        script: "0s delay=30ms\n0s up rate=2M\n1s up rate=4M\n2s up rate=1.5M\n3s up rate=800k\n4s up rate=3M\n5s up rate=500k\n6s up rate=1M\n7s up rate=2.5M\nrepeat 8s",
        seconds: 60,
        steady: (10, 60),
        ..BASE
    },
    Scenario { name: "satellite", script: "0s delay=300ms loss=1%", ..BASE },
    Scenario {
        name: "satellite, 1M",
        script: "0s delay=300ms loss=1%\n0s up rate=1M",
        seconds: 60,
        steady: (20, 60),
        ..BASE
    },
    Scenario {
        name: "outages",
        script: "0s delay=25ms\n0s up rate=1M\n15s loss=100%\n15.3s loss=0%\n25s loss=100%\n26s loss=0%",
        ..BASE
    },
    Scenario { name: "longer route", script: "0s delay=20ms\n0s up rate=4M\n15s delay=80ms", ..BASE },
    Scenario {
        name: "two on 1M",
        script: "0s delay=25ms\n0s up rate=1M buffer=300ms",
        flows: 2,
        seconds: 60,
        steady: (20, 60),
        ..BASE
    },
    Scenario { name: "1M, 20 % loss", script: "0s delay=25ms loss=20%\n0s up rate=1M buffer=300ms", ..BASE },
    Scenario {
        name: "four on 2M",
        script: "0s delay=25ms\n0s up rate=2M buffer=300ms",
        flows: 4,
        seconds: 60,
        steady: (25, 60),
        ..BASE
    },
];
