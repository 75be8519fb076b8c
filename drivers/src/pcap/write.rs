//! Writing captures: pcapng (draft-ietf-opsawg-pcapng), of Ethernet, with times in nanoseconds.

use pcap_file::{
    DataLink, Endianness,
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
            interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption},
            section_header::{SectionHeaderBlock, SectionHeaderOption},
        },
    },
};
use std::{
    borrow::Cow,
    io::{self, Write},
    time::Duration,
};

/// Values of the direction bits of `epb_flags` (draft-ietf-opsawg-pcapng, 4.3.1).
pub(super) const INBOUND: u32 = 1;
pub(super) const OUTBOUND: u32 = 2;

/// Units of a second.
const NANOSECONDS: u8 = 9;

/// Which way a frame went, as the network sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Into the network.
    In,
    /// Out of it.
    Out,
}

/// A frame to be written.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Its interface, as [`Writer::interface`] called it.
    pub interface: u32,
    /// When it passed, counted from 1970.
    pub at: Duration,
    /// Which way.
    pub direction: Direction,
    /// From its start on, perhaps not all.
    pub data: &'a [u8],
    /// Bytes that it has in all.
    pub len: u32,
    /// What is to be told of it; empty: nothing.
    pub comment: &'a str,
}

/// Writes a capture.
pub struct Writer<W: Write> {
    inner: PcapNgWriter<W>,
    interfaces: u32,
}

impl<W: Write> Writer<W> {
    /// Begins a capture; `application` is who writes it, if that is to be told.
    ///
    /// # Errors
    /// It could not be written.
    pub fn new(out: W, application: Option<&str>) -> io::Result<Self> {
        let application =
            application.map(|name| SectionHeaderOption::UserApplication(name.to_owned().into()));
        let section = SectionHeaderBlock {
            // One order everywhere, for what the crate writes in an order of its own (`statistics`).
            endianness: Endianness::Little,
            options: application.into_iter().collect(),
            ..SectionHeaderBlock::default()
        };
        let inner = PcapNgWriter::with_section_header(out, section).map_err(io_error)?;
        Ok(Self { inner, interfaces: 0 })
    }

    /// Adds an interface, at any time before its first packet. The number it has from now on. Of its frames at most
    /// `snaplen` bytes are kept; 0: all.
    ///
    /// # Errors
    /// It could not be written.
    pub fn interface(&mut self, name: &str, description: &str, snaplen: u32) -> io::Result<u32> {
        let mut options = vec![InterfaceDescriptionOption::IfTsResol(NANOSECONDS)];
        if !name.is_empty() {
            options.push(InterfaceDescriptionOption::IfName(Cow::Borrowed(name)));
        }
        if !description.is_empty() {
            options.push(InterfaceDescriptionOption::IfDescription(Cow::Borrowed(description)));
        }
        let block = InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen, options };
        self.inner.write_pcapng_block(block).map_err(io_error)?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// It could not be written, or its interface was not added before.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let flags = match packet.direction {
            Direction::In => INBOUND,
            Direction::Out => OUTBOUND,
        };
        let mut options = vec![EnhancedPacketOption::Flags(flags)];
        if !packet.comment.is_empty() {
            options.push(EnhancedPacketOption::Comment(packet.comment.into()));
        }
        let block = EnhancedPacketBlock {
            interface_id: packet.interface,
            timestamp: packet.at,
            original_len: packet.len,
            data: packet.data.into(),
            options,
        };
        self.inner.write_pcapng_block(block).map(drop).map_err(io_error)
    }

    /// Says how many frames of an interface there were until `at`, counted from 1970, and how many of them the capture
    /// missed.
    ///
    /// # Errors
    /// It could not be written, or the interface was not added before.
    pub fn statistics(&mut self, interface: u32, at: Duration, received: u64, missed: u64) -> io::Result<()> {
        let block = InterfaceStatisticsBlock {
            interface_id: interface,
            // Its high half stands first, whatever the order of bytes; the crate writes it as one number.
            timestamp: (at.as_nanos() as u64).rotate_left(32),
            options: vec![
                InterfaceStatisticsOption::IsbIfRecv(received),
                InterfaceStatisticsOption::IsbIfDrop(missed),
            ],
        };
        self.inner.write_pcapng_block(block).map(drop).map_err(io_error)
    }

    /// Writes what is buffered further down.
    ///
    /// # Errors
    /// It could not be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.inner.get_mut().flush()
    }

    /// What it is written to.
    pub fn get_ref(&self) -> &W {
        self.inner.get_ref()
    }
}

impl<W: Write> std::fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({} interfaces)", self.interfaces)
    }
}

fn io_error(error: pcap_file::PcapError) -> io::Error {
    match error {
        pcap_file::PcapError::IoError(e) => e,
        e => io::Error::other(e.to_string()),
    }
}
