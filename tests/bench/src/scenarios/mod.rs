//! What is measured, each with its own floor. Repetitions of different figures alternate, so that a machine that becomes
//! slower or faster in the meantime does it to all of them.

pub mod burst;
pub mod memory;
pub mod mount;
pub mod rotation;
pub mod start;

/// Objects of a class where a scenario does not vary them, as in the reference's measurements.
const OBJECTS: usize = 5;
