//! Frames that no protocol stack would send, through an AF_PACKET socket.
#![expect(unsafe_code, reason = "AF_PACKET addresses cannot be made in safe code")]

use std::{io, mem, os::fd::AsRawFd as _};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::netns::Netns;

/// Sends one Ethernet frame, exactly as given, out of an interface.
pub fn send(from: &Netns, ifindex: u32, frame: &[u8]) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket =
        from.enter(|| socket(AddressFamily::Packet, SockType::Raw, flags, None)).expect("a packet socket");
    // SAFETY: every bit pattern, zeros included, is a sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET.try_into().expect("a family");
    address.sll_ifindex = ifindex.cast_signed();
    let ethertype = frame[12..14].try_into().expect("a frame with an EtherType");
    address.sll_protocol = u16::from_ne_bytes(ethertype);
    let length = size_of::<libc::sockaddr_ll>().try_into().expect("a small size");
    // SAFETY: buffer and address are alive and readable for the lengths passed with them.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            length,
        )
    };
    let error = io::Error::last_os_error();
    assert_eq!(usize::try_from(sent), Ok(frame.len()), "sending a frame: {error}");
}
