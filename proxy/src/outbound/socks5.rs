//! SOCKS version 5 (RFC 1928): CONNECT, without a password. Go's server also relays UDP, which is refused here.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{ASK_WITHIN, Outbound};
use crate::copy::both_ways;

/// The first byte of everything.
pub(super) const VERSION: u8 = 5;

const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;

/// What a request is answered (section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Succeeded = 0,
    Failed = 1,
    HostUnreachable = 4,
    Refused = 5,
    CommandNotSupported = 7,
    AddressNotSupported = 8,
}

pub(super) async fn serve(outbound: &Outbound, mut stream: TcpStream) -> io::Result<()> {
    let asking = async {
        let method = greeting(&mut stream).await?;
        stream.write_all(&[VERSION, method]).await?;
        if method == NO_ACCEPTABLE_METHOD {
            return Ok(None);
        }
        request(&mut stream).await.map(Some)
    };
    let reply = match tokio::time::timeout(ASK_WITHIN, asking).await?? {
        None => return Ok(()),
        Some(Err(reply)) => reply,
        Some(Ok((host, port))) => match outbound.dial(&host, port).await {
            Ok(mut target) => {
                stream.write_all(&answer(Reply::Succeeded)).await?;
                return both_ways(&mut stream, &mut target).await.map(drop);
            }
            Err(error) => reply_to(&error),
        },
    };
    stream.write_all(&answer(reply)).await?;
    stream.shutdown().await
}

/// Reads which methods the client knows, and chooses one.
async fn greeting(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<u8> {
    let [version, count] = read(stream).await?;
    if version != VERSION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut methods = vec![0; count.into()];
    stream.read_exact(&mut methods).await?;
    Ok(match methods.contains(&NO_AUTHENTICATION) {
        true => NO_AUTHENTICATION,
        false => NO_ACCEPTABLE_METHOD,
    })
}

/// Reads where the client wants to go, or what it has to be told instead.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Result<(String, u16), Reply>> {
    let [version, command, _, kind] = read(stream).await?;
    if version != VERSION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let host = match kind {
        1 => Ipv4Addr::from(read::<4>(stream).await?).to_string(),
        4 => Ipv6Addr::from(read::<16>(stream).await?).to_string(),
        3 => {
            let mut name = vec![0; stream.read_u8().await?.into()];
            stream.read_exact(&mut name).await?;
            match String::from_utf8(name) {
                Ok(name) => name,
                Err(_) => return Ok(Err(Reply::AddressNotSupported)),
            }
        }
        _ => return Ok(Err(Reply::AddressNotSupported)),
    };
    let port = stream.read_u16().await?;
    Ok(match command {
        CONNECT => Ok((host, port)),
        _ => Err(Reply::CommandNotSupported),
    })
}

async fn read<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn reply_to(error: &io::Error) -> Reply {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Reply::Refused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NotFound | io::ErrorKind::TimedOut => {
            Reply::HostUnreachable
        }
        _ => Reply::Failed,
    }
}

/// With `0.0.0.0:0` for the address that we are bound to, which nobody asks for.
fn answer(reply: Reply) -> [u8; 10] {
    [VERSION, reply as u8, 0, 1, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_read_as_the_rfc_has_them() {
        let ask = async |bytes: &[u8]| request(&mut &*bytes).await.ok();
        let connect = |host: &str, port| Some(Ok((host.to_owned(), port)));
        assert_eq!(
            ask(b"\x05\x01\0\x01\x64\x40\0\x01\0\x50").await,
            connect("100.64.0.1", 80)
        );
        assert_eq!(ask(b"\x05\x01\0\x03\x02db\x15\x38").await, connect("db", 5432));
        let v6 = [&b"\x05\x01\0\x04\xfd\x7a"[..], &[0; 13], b"\x01\0\x50"].concat();
        assert_eq!(ask(&v6).await, connect("fd7a::1", 80));
        let refused = |reply| Some(Err(reply));
        assert_eq!(
            ask(b"\x05\x03\0\x01\x64\x40\0\x01\0\x50").await,
            refused(Reply::CommandNotSupported)
        );
        assert_eq!(ask(b"\x05\x01\0\x02").await, refused(Reply::AddressNotSupported));
        assert_eq!(
            ask(b"\x05\x01\0\x03\x01\xff\0\x50").await,
            refused(Reply::AddressNotSupported)
        );
        for cut in [
            &b"\x05\x01"[..],
            b"\x05\x01\0\x03\x09db",
            b"\x04\x01\0\x01\x64\x40\0\x01\0\x50",
        ] {
            assert_eq!(ask(cut).await, None, "{cut:?}");
        }
    }

    #[tokio::test]
    async fn a_client_that_wants_a_password_is_told_that_there_is_none() {
        let greet = async |bytes: &[u8]| greeting(&mut &*bytes).await.ok();
        assert_eq!(greet(b"\x05\x02\x02\0").await, Some(NO_AUTHENTICATION));
        assert_eq!(greet(b"\x05\x01\x02").await, Some(NO_ACCEPTABLE_METHOD));
        assert_eq!(greet(b"\x04\x01\0").await, None);
    }
}
