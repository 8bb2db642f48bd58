//! Identity and rights: passwords, certificates, tokens, rules, and the log of them.

mod absent;
mod audit;
mod certificate;
mod password;
mod rules;
mod scram;
mod token;
