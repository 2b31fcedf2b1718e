//! Frames that no protocol stack would send, through an AF_PACKET socket; and devices that no cable leads to.
#![expect(unsafe_code, reason = "AF_PACKET addresses, socket options and ioctls cannot be made in safe code")]

use std::{
    fs::File,
    io, mem,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::netns::Netns;

/// Length of `struct virtio_net_hdr`.
const VNET_HEADER: usize = 10;

/// Where `hdr_len` is in it.
const VNET_LINEAR: std::ops::Range<usize> = 2..4;

/// Sends one Ethernet frame, exactly as given, out of an interface.
pub fn send(from: &Netns, ifindex: u32, frame: &[u8]) {
    Sender::open(from, ifindex).send(frame, 0);
}

/// Makes a tun device of a link-layer type, `ARPHRD_*`, and sets it up.
///
/// # Panics
///
/// When it cannot be made.
pub fn tun_device(netns: &Netns, name: &str, link_layer_type: u16) {
    netns.run(&format!("ip tuntap add dev {name} mode tun"));
    netns.enter(|| {
        // It leads to the devices of the namespace in which it is opened.
        let device = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
        // SAFETY: every bit pattern, zeros included, is an ifreq.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the request is alive and what this ioctl takes.
        let taken = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        // SAFETY: this ioctl takes a number.
        let typed = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETLINK, i32::from(link_layer_type)) };
        assert_eq!([taken, typed], [0, 0], "{name}: {}", io::Error::last_os_error());
    });
    netns.run(&format!("ip link set {name} up"));
}

/// A socket that sends frames out of one interface.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
    ifindex: u32,
}

impl Sender {
    /// Opens the socket.
    pub fn open(from: &Netns, ifindex: u32) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = from
            .enter(|| socket(AddressFamily::Packet, SockType::Raw, flags, None))
            .expect("a packet socket");
        let on: libc::c_int = 1;
        // SAFETY: the value is alive and has the length given.
        let answer = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_VNET_HDR,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        assert_eq!(answer, 0, "PACKET_VNET_HDR: {}", io::Error::last_os_error());
        Self { socket, ifindex }
    }

    /// Sends one Ethernet frame, exactly as given.
    ///
    /// A frame of more than a page becomes a packet that is not linear: only its first `linear`
    /// bytes, and never less than an Ethernet header, are in the first buffer.
    pub fn send(&self, frame: &[u8], linear: usize) {
        // SAFETY: every bit pattern, zeros included, is a sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET.try_into().expect("a family");
        address.sll_ifindex = self.ifindex.cast_signed();
        let ethertype = frame[12..14].try_into().expect("a frame with an EtherType");
        address.sll_protocol = u16::from_ne_bytes(ethertype);
        let linear = u16::try_from(linear.min(frame.len())).expect("a frame's length");
        let mut bytes = vec![0; VNET_HEADER];
        bytes[VNET_LINEAR].copy_from_slice(&linear.to_ne_bytes());
        bytes.extend(frame);
        let length = size_of_val(&address).try_into().expect("a small size");
        // SAFETY: buffer and address are alive and readable for the lengths passed with them.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                (&raw const address).cast(),
                length,
            )
        };
        let error = io::Error::last_os_error();
        let expected = Ok(bytes.len());
        assert_eq!(usize::try_from(sent), expected, "sending a frame: {error}");
    }
}
