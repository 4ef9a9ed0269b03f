//! One control message on one stream: the asker writes it and closes its half, the answer is one byte.
//!
//! Rule: a message beyond the limit is refused before it is in memory, and a stream that merely ends is no
//! acknowledgement. Not here: what is in the bytes (`proto`'s `wire/control.rs`).

use std::io;
use std::sync::Arc;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response;
use tokio::sync::Semaphore;

/// The answer to a message that was taken.
const TAKEN: u8 = 1;
/// Messages up to this size are read at once; only rosters, catalogues and torrents are larger.
const SMALL_BYTES: usize = 64 * 1024;
/// Larger messages that are read at the same time, of all connections together: 40 MiB at most.
const LARGE_AT_ONCE: usize = 4;

/// Bytes in, bytes out.
#[derive(Clone)]
pub(super) struct Codec {
    limit: usize,
    large: Arc<Semaphore>,
}

impl Codec {
    /// Refuses messages of more than `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, large: Arc::new(Semaphore::new(LARGE_AT_ONCE)) }
    }
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Arc<[u8]>;
    type Response = ();

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Arc<[u8]>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut bytes = Vec::new();
        let small = SMALL_BYTES.min(self.limit);
        io.take(small as u64 + 1).read_to_end(&mut bytes).await?;
        if bytes.len() > small {
            let turn = self.large.acquire().await;
            let _turn = turn.expect("the semaphore is never closed");
            let rest = (self.limit + 1).saturating_sub(bytes.len());
            io.take(rest as u64).read_to_end(&mut bytes).await?;
        }
        if bytes.len() > self.limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of over {} bytes", self.limit)));
        }
        Ok(bytes.into())
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<()>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut answer = Vec::new();
        io.take(2).read_to_end(&mut answer).await?;
        match answer[..] {
            [TAKEN] => Ok(()),
            [] => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other side refused the message")),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the other side answered something else")),
        }
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, bytes: Arc<[u8]>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&bytes).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, _: ()) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&[TAKEN]).await
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::Cursor;
    use libp2p::request_response::Codec as _;

    use super::*;

    const PROTOCOL: StreamProtocol = StreamProtocol::new("/test");

    #[track_caller]
    fn check_request(limit: usize, size: usize, taken: bool) {
        let result = block_on(Codec::new(limit).read_request(&PROTOCOL, &mut Cursor::new(vec![7; size])));
        assert_eq!(result.ok().map(|bytes| bytes.len()), taken.then_some(size), "{size} of {limit}");
    }

    #[test]
    fn messages_are_taken_up_to_the_limit() {
        for limit in [10, SMALL_BYTES, 3 * SMALL_BYTES] {
            for size in [0, limit - 1, limit] {
                check_request(limit, size, true);
            }
            check_request(limit, limit + 1, false);
            check_request(limit, limit + 100_000, false);
        }
    }

    #[test]
    fn only_the_one_byte_is_an_acknowledgement() {
        for (answer, good) in [(&[TAKEN][..], true), (&[], false), (&[0], false), (&[TAKEN, TAKEN], false)] {
            let result = block_on(Codec::new(1).read_response(&PROTOCOL, &mut Cursor::new(answer)));
            assert_eq!(result.is_ok(), good, "{answer:?}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut wire = Cursor::new(Vec::new());
        let mut codec = Codec::new(1 << 20);
        let bytes: Arc<[u8]> = vec![3; 200_000].into();
        block_on(codec.write_request(&PROTOCOL, &mut wire, Arc::clone(&bytes))).unwrap();
        wire.set_position(0);
        assert_eq!(block_on(codec.read_request(&PROTOCOL, &mut wire)).unwrap(), bytes);
    }
}
