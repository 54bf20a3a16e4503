//! A connection that a stream writes to: a socket as it is, or one with TLS around it.
//!
//! The plain socket takes what it takes, and owes nothing; that path costs no more than without this trait. TLS takes a
//! record at a time and may then owe its bytes to the socket, which is what back-pressure looks like there.

use std::{
    io::{self, IoSlice, Read, Write},
    net::Shutdown,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};
use tokio_rustls::rustls::ServerConnection;

/// What TLS may hold of what was written, while its socket takes nothing: a record.
pub(super) const RECORD: usize = 16 * 1024;

/// See the module.
pub trait Wire: Send + Unpin + 'static {
    /// The socket beneath.
    fn socket(&self) -> &TcpStream;

    /// Takes some of `bytes`. To be called when nothing is owed.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is taken at the moment.
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Whether something that was taken has yet to leave.
    fn owes(&self) -> bool;

    /// Sends some of what is owed.
    ///
    /// # Errors
    /// `WouldBlock` when the socket takes nothing at the moment.
    fn try_flush(&mut self) -> io::Result<()>;

    /// Reads what nobody wants, into room that many share. Returns how much came; nothing is the end.
    fn poll_discard(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Whether something came, or the end did, since all was read: one look at what the runtime knows, and no call of the
    /// kernel. Whoever has been told that nothing is there and sees nothing here is still waited for.
    #[inline]
    fn has_come(&self) -> bool {
        self.socket().try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    /// What has to be said before the write side is shut down.
    fn say_goodbye(&mut self);

    /// Shuts the write side down.
    fn shut_down(&mut self) {
        let _ = SockRef::from(self.socket()).shutdown(Shutdown::Write);
    }
}

impl Wire for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    #[inline]
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::try_write(self, bytes)
    }

    #[inline]
    fn owes(&self) -> bool {
        false
    }

    #[inline]
    fn try_flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    #[inline]
    fn poll_discard(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            match self.try_read(room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    #[inline]
    fn say_goodbye(&mut self) {}
}

/// A socket with TLS around it.
pub struct TlsWire {
    socket: TcpStream,
    session: ServerConnection,
}

impl TlsWire {
    /// Takes over what the handshake has made.
    pub fn new(socket: TcpStream, mut session: ServerConnection) -> Self {
        session.set_buffer_limit(Some(RECORD));
        Self { socket, session }
    }
}

/// The socket as the TLS library wants it.
struct Raw<'a>(&'a TcpStream);

impl Read for Raw<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(room)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for TlsWire {
    fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        // A record at a time, so that no more than one is held when the socket is full.
        while taken < bytes.len() && !self.owes() {
            let count = self.session.writer().write(&bytes[taken..])?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            taken += count;
            match self.try_flush() {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    fn owes(&self) -> bool {
        self.session.wants_write()
    }

    fn try_flush(&mut self) -> io::Result<()> {
        let mut sent = false;
        while self.session.wants_write() {
            match self.session.write_tls(&mut Raw(&self.socket)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => sent = true,
                // Some of it is progress; the next call says that there is none.
                Err(error) if sent && error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            // What has been decrypted already; nothing of it is the end that TLS itself says.
            match self.session.reader().read(room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
            match self.session.read_tls(&mut Raw(&self.socket)) {
                Ok(0) => return Poll::Ready(Ok(0)),
                // Counted as it came: empty records and new keys are noise as well.
                Ok(count) => {
                    if let Err(error) = self.session.process_new_packets() {
                        // The alert that says what was wrong, if it can be sent at once.
                        let _ = self.try_flush();
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                    }
                    loop {
                        match self.session.reader().read(room) {
                            Ok(0) => return Poll::Ready(Ok(0)),
                            Ok(_) => {}
                            Err(_) => return Poll::Ready(Ok(count)),
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_read_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn say_goodbye(&mut self) {
        self.session.send_close_notify();
    }
}
