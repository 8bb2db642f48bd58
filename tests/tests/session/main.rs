//! Sessions: their QoS flows, their queues, and each reason for a message that did not arrive.

mod drops;
mod local;
mod model;
mod pressure;
mod together;
