//! The program `lapwing` on a command line: start and stop, client tools, migration, packaging.

mod mosquitto;
mod packaging;
mod program;
mod tools;
