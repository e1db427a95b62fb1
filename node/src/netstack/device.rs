//! smoltcp's device for the length of one call: at most one packet in, any number out.

use bytes::BytesMut;
use smoltcp::{
    phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

use crate::wg::MTU;

pub(super) struct Wire<'a> {
    pub(super) rx: Option<&'a [u8]>,
    pub(super) out: &'a mut Vec<BytesMut>,
}

pub(super) struct Rx<'a>(&'a [u8]);
pub(super) struct Tx<'a>(&'a mut Vec<BytesMut>);

impl RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = padded(len);
        let result = f(&mut packet[..len]);
        self.0.push(packet);
        result
    }
}

impl Device for Wire<'_> {
    type RxToken<'a>
        = Rx<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Tx<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        Some((Rx(self.rx.take()?), Tx(self.out)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities.checksum = ChecksumCapabilities::default();
        // WireGuard authenticated what we receive (Go's netstack skips these checks as well).
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

/// A zeroed packet of `len` bytes and WireGuard's padding: to 16 bytes, but not beyond the MTU.
pub(super) fn padded(len: usize) -> BytesMut {
    BytesMut::zeroed(len.next_multiple_of(16).min(MTU.max(len)))
}
