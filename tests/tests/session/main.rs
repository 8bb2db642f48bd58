//! Sessions: their QoS flows, their queues, and each reason for a message that did not arrive.

mod drops;
mod model;
mod pressure;
