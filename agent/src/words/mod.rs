//! Texts for operators: how numbers, durations, errors and names are written in logs and answers.
//!
//! Knows nothing of policies or of the kernel, so every other module may use it.

pub mod causes;
pub mod counted;
pub mod folded;
pub mod near;
pub mod rounded;
