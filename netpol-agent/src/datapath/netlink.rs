// SPDX-License-Identifier: Apache-2.0
//! Requests to the kernel's routing and netfilter netlink, in their own byte layout
//! (`rtnetlink(7)`, host byte order). Only the needed attributes of an answer are parsed, so a
//! kernel that adds an attribute, or changes one that is not needed, breaks nothing.

use std::io;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkHeader,
};
use netlink_sys::{Socket, SocketAddr};

/// Larger than any datagram of a dump: the kernel keeps those within 32 KiB.
const RECEIVE_BYTES: usize = 256 << 10;
const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// Bits of an attribute's type that are flags.
const ATTRIBUTE_KIND: u16 = 0x3fff;

/// A blocking socket for requests and answers, in the network namespace of the thread that opened
/// it.
pub(super) struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    /// Opens the socket; `protocol` as in `netlink(7)`.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE_BYTES),
        })
    }

    /// Enables strict checking (Linux 4.20). Without it the kernel ignores the filters of a dump
    /// request.
    pub(super) fn strict(self) -> io::Result<Self> {
        self.socket.set_netlink_get_strict_chk(true)?;
        Ok(self)
    }

    /// Sends a dump request and passes each message's type and payload to `each`. Returns false if
    /// the data changed meanwhile: then the answer may mix old and new.
    pub(super) fn dump(
        &mut self,
        kind: u16,
        payload: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<bool> {
        let sequence = self.send(kind, NLM_F_DUMP, payload)?;
        let mut consistent = true;
        loop {
            let done = self.receive(sequence, |message| {
                consistent &= message.flags() & NLM_F_DUMP_INTR == 0;
                match message.message_type() {
                    NLMSG_DONE | NLMSG_ERROR => Ok(Some(status(message.payload())?)),
                    kind => {
                        each(kind, message.payload());
                        Ok(None)
                    }
                }
            })?;
            if done {
                return Ok(consistent);
            }
        }
    }

    /// Sends a request and waits for its acknowledgement.
    pub(super) fn request(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        self.get(kind, flags, payload, |_, _| ())
    }

    /// Like [`Requests::request`]. Passes the type and payload of answers to `each`.
    pub(super) fn get(
        &mut self,
        kind: u16,
        flags: u16,
        payload: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let sequence = self.send(kind, flags | NLM_F_ACK, payload)?;
        while !self.receive(sequence, |message| match message.message_type() {
            NLMSG_ERROR => Ok(Some(status(message.payload())?)),
            kind => {
                each(kind, message.payload());
                Ok(None)
            }
        })? {}
        Ok(())
    }

    fn send(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = HEADER_BYTES + payload.len();
        let mut header = NetlinkHeader::default();
        header.length = u32::try_from(length).map_err(io::Error::other)?;
        header.message_type = kind;
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = vec![0; length];
        header.emit(&mut message);
        message[HEADER_BYTES..].copy_from_slice(payload);
        self.socket.send(&message, 0)?;
        Ok(self.sequence)
    }

    /// Reads one datagram. Returns true if `each` found the end of the answer in it. Skips answers
    /// to earlier requests that were abandoned.
    fn receive(
        &mut self,
        sequence: u32,
        mut each: impl FnMut(&NetlinkBuffer<&[u8]>) -> io::Result<Option<()>>,
    ) -> io::Result<bool> {
        self.buffer.clear();
        let length = loop {
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        let mut rest = self
            .buffer
            .get(..length)
            .ok_or_else(|| io::Error::other(format!("netlink answer of {length} bytes does not fit")))?;
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            if message.sequence_number() == sequence && each(&message)?.is_some() {
                return Ok(true);
            }
            let length = (message.length() as usize).next_multiple_of(ATTRIBUTE_HEADER_BYTES);
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(false)
    }
}

/// Parses the result at the start of an error or done message: zero, or a negative errno. A done
/// message may have none.
fn status(payload: &[u8]) -> io::Result<()> {
    match u32_at(payload, 0) {
        None | Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.cast_signed().wrapping_neg())),
    }
}

/// Appends an attribute with its padding.
pub(super) fn push_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = ATTRIBUTE_HEADER_BYTES + value.len();
    debug_assert!(length <= usize::from(u16::MAX));
    message.extend_from_slice(&(length as u16).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(ATTRIBUTE_HEADER_BYTES), 0);
}

/// Returns the attributes in `bytes`, type and value, up to the first truncated one.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?) & ATTRIBUTE_KIND;
        let value = rest.get(ATTRIBUTE_HEADER_BYTES..length)?;
        rest = rest
            .get(length.next_multiple_of(ATTRIBUTE_HEADER_BYTES)..)
            .unwrap_or_default();
        Some((kind, value))
    })
}

/// Reads the number at `offset` of a message or attribute, in host byte order.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// Returns the text of an attribute, without its final NUL.
pub(super) fn text(value: &[u8]) -> &[u8] {
    value.strip_suffix(&[0]).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back_what_was_pushed() {
        let mut bytes = Vec::new();
        push_attribute(&mut bytes, 3, b"eth0\0");
        push_attribute(&mut bytes, 5 | 0x8000, &7u32.to_ne_bytes());
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read, [(3, &b"eth0\0"[..]), (5, &7u32.to_ne_bytes()[..])]);
        assert_eq!(text(read[0].1), b"eth0");
        assert_eq!(u32_at(read[1].1, 0), Some(7));
    }

    #[test]
    fn a_cut_attribute_ends_the_reading() {
        let mut bytes = Vec::new();
        push_attribute(&mut bytes, 1, &[1, 2, 3, 4]);
        for length in 0..bytes.len() {
            assert_eq!(attributes(&bytes[..length]).count(), 0, "{length} bytes");
        }
        assert_eq!(attributes(&[0; 8]).count(), 0, "a length of zero never ends");
    }

    #[test]
    fn status_is_a_negative_errno() {
        assert!(status(&0i32.to_ne_bytes()).is_ok());
        assert_eq!(
            status(&(-19i32).to_ne_bytes()).unwrap_err().raw_os_error(),
            Some(19)
        );
    }
}
