//! The CPU: what every op means, in code that is easy to check.

pub mod reference;
