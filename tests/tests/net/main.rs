//! Transports and limits of connections: TLS, WebSocket, the PROXY protocol, rates and bans.

mod limits;
mod proxy;
mod tls;
mod websocket;
