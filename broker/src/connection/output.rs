//! Bytes that a connection has yet to write: gathered while it works, written once per wake.
//!
//! Headers and small payloads are copied next to each other; a large payload stays where it is and
//! is written from there. An idle connection holds no buffer: the buffers go round within the
//! thread.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::message::Message;
use crate::net::Stream;

/// From this size on, a payload is not copied.
const SHARE_MIN: usize = 4 * 1024;
/// The most pieces that one write takes.
const PIECES_MAX: usize = 32;
/// Bytes of one segment on loopback, which has the largest. Segments that a network card is handed
/// are about as large.
const SEGMENT_BYTES: usize = 64_000;
/// A buffer above this is not kept for others.
const SPARE_MAX: usize = 256 * 1024;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Payload(Message),
}

impl Piece {
    fn as_slice(&self) -> &[u8] {
        match self {
            Piece::Bytes(bytes) => bytes,
            Piece::Payload(message) => message.payload(),
        }
    }
}

/// Output buffer of one connection.
#[derive(Debug, Default)]
pub struct Output {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are written.
    written: usize,
    len: usize,
    unflushed: bool,
}

impl Output {
    /// Returns the number of bytes to write.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns `true` when payloads are written from where they are.
    pub fn shares(&self) -> bool {
        self.pieces.len() > 1
    }

    /// Lets `encode` write up to `most` bytes and return their number. After an error, nothing is
    /// added.
    pub fn append<E>(
        &mut self,
        most: usize,
        encode: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let Some(bytes) = self.bytes() else { return Ok(()) };
        let start = bytes.len();
        bytes.resize(start + most, 0);
        let result = encode(bytes.get_mut(start..).unwrap_or(&mut []));
        let n = result.as_ref().copied().unwrap_or(0);
        bytes.truncate(start + n);
        self.len += n;
        result.map(drop)
    }

    /// Returns the last piece for bytes, and begins one where there is none.
    #[inline]
    fn bytes(&mut self) -> Option<&mut Vec<u8>> {
        if !matches!(self.pieces.back(), Some(Piece::Bytes(_))) {
            self.pieces.push_back(Piece::Bytes(SPARE.take()));
        }
        match self.pieces.back_mut() {
            Some(Piece::Bytes(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Adds bytes.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        if let Some(piece) = self.bytes() {
            piece.extend_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    /// Adds the payload of a message.
    pub fn payload(&mut self, message: &Message) {
        let payload = message.payload();
        if payload.len() < SHARE_MIN {
            self.extend(payload);
        } else {
            self.len += payload.len();
            self.pieces.push_back(Piece::Payload(message.clone()));
        }
    }

    /// Writes as much as the stream takes; ready once everything is written and flushed.
    pub fn poll_write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.len > 0 {
            let mut slices = [IoSlice::new(&[]); PIECES_MAX];
            let (mut used, mut left) = (0, self.share());
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                let skip = if used == 0 { self.written } else { 0 };
                let bytes = piece.as_slice().get(skip..).unwrap_or(&[]);
                let bytes = bytes.get(..left).unwrap_or(bytes);
                *slice = IoSlice::new(bytes);
                (used, left) = (used + 1, left - bytes.len());
                if left == 0 {
                    break;
                }
            }
            let stream = Pin::new(&mut *stream);
            let n = match slices.get(..used) {
                Some([one]) => ready!(stream.poll_write(cx, one))?,
                Some(several) => ready!(stream.poll_write_vectored(cx, several))?,
                None => 0,
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(n);
        }
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Returns the bytes of one write: output of several segments is split evenly. A tiny trailing
    /// segment inflates the receiver's estimate of its memory, and Linux shrinks the TCP window.
    fn share(&self) -> usize {
        self.len.div_ceil(self.len.div_ceil(SEGMENT_BYTES).max(1))
    }

    fn advance(&mut self, n: usize) {
        self.len = self.len.saturating_sub(n);
        self.written += n;
        while let Some(piece) = self.pieces.front() {
            let len = piece.as_slice().len();
            if self.written < len {
                return;
            }
            self.written -= len;
            match self.pieces.pop_front() {
                Some(Piece::Bytes(mut bytes)) if bytes.capacity() <= SPARE_MAX => {
                    bytes.clear();
                    SPARE.set(bytes);
                }
                Some(Piece::Payload(message)) => message.recycle(),
                _ => {}
            }
        }
        if self.pieces.capacity() > PIECES_MAX {
            self.pieces = VecDeque::new();
        }
    }
}
