//! Estimators of bandwidth on simulated hops, in virtual time.
//!
//! | module | job |
//! |---|---|
//! | `candidate` | the estimators: that of `vchat_proto::cc`, and the crate `goog_cc` |
//! | `flow` | one sender and its receiver: encoder, pacer, reports |
//! | `simulation` | flows over one link of [`crate::netem`] |
//! | `scenario` | the networks |
//! | `log`, `figures` | what was seen, and what that comes to |
//! | `report` | the table |

mod candidate;
mod figures;
mod flow;
mod log;
mod report;
mod scenario;
mod simulation;

pub use self::figures::{Figures, figures};
pub use self::log::{Log, SLOT};
pub use self::report::{EstimatorOptions, run_estimators};
pub use self::scenario::{SCENARIOS, Scenario};
pub use self::simulation::{Outcome, Which, run};
