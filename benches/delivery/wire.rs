//! A connection of the publisher or of a receiver, plain or over TLS. Owns the TLS state; knows nothing of HTTP.

use std::io::{ErrorKind, Read, Result, Write};

use mio::net::TcpStream;
use rustls::Connection;

pub struct Wire {
    stream: TcpStream,
    tls: Option<Connection>,
}

impl Wire {
    pub fn new(stream: TcpStream, tls: Option<Connection>) -> Self {
        Self { stream, tls }
    }

    /// TLS keeps a buffer of its own: a read that did not fill the buffer has not emptied it.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            if tls.read_tls(&mut self.stream)? == 0 {
                return Ok(0);
            }
            let processed = tls.process_new_packets().map_err(std::io::Error::other);
            while tls.wants_write() {
                tls.write_tls(&mut self.stream)?;
            }
            processed?;
        }
    }

    /// Writes all of it. Only large bodies wait here: the socket is full until the other side reads.
    pub fn write_all(&mut self, mut bytes: &[u8]) -> Result<()> {
        let Some(tls) = &mut self.tls else {
            while !bytes.is_empty() {
                let written = patiently(|| self.stream.write(bytes))?;
                bytes = &bytes[written..];
            }
            return Ok(());
        };
        while !bytes.is_empty() {
            let taken = tls.writer().write(bytes)?;
            bytes = &bytes[taken..];
            while tls.wants_write() {
                patiently(|| tls.write_tls(&mut self.stream))?;
            }
        }
        Ok(())
    }
}

fn patiently(mut write: impl FnMut() -> Result<usize>) -> Result<usize> {
    loop {
        match write() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            other => return other,
        }
    }
}
