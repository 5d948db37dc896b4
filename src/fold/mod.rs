//! (to be written)

pub mod exact_sum;
