//! Durable state: acknowledgements, restarts, kill -9, loss of power, and long backlogs.

mod backlog;
mod crash;
mod durability;
mod older;
mod power;
mod restart;
