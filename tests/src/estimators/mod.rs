//! Estimators of bandwidth on simulated hops, in virtual time.

mod candidate;
mod flow;
mod report;
mod scenario;
mod simulation;

pub use self::flow::{Log, SLOT};
pub use self::report::{EstimatorOptions, Figures, figures, run_estimators};
pub use self::scenario::{SCENARIOS, Scenario};
pub use self::simulation::{Outcome, Which, run};
