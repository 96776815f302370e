//! Our packets as Wireshark's dissectors see them.

use std::{fs, path::Path};

use xtask::unpacked::TSHARK;

use crate::{exec, packet::Frame};

/// What tshark calls broken: its own word for it, errors of any protocol, and checksums that are wrong.
const BROKEN: &str = "_ws.malformed || _ws.expert.severity == error || ip.checksum.status == Bad \
    || udp.checksum.status == Bad || tcp.checksum.status == Bad || icmp.checksum.status == Bad";

/// Frames in a file.
#[derive(Debug)]
pub struct Capture<'a>(&'a Path);

impl<'a> Capture<'a> {
    /// Writes frames to a file, as pcap with Ethernet headers.
    ///
    /// # Panics
    /// If the file cannot be written.
    #[must_use]
    #[track_caller]
    pub fn write(path: &'a Path, frames: &[Frame]) -> Self {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let len = |frame: &Frame| u32::try_from(frame.0.len()).expect("the length of a frame");
        // Magic number, version 2.4, time zone, accuracy, longest frame, link type: Ethernet.
        let mut file = words(&[0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 0x4_0000, 1]);
        for frame in frames {
            file.extend(words(&[0, 0, len(frame), len(frame)]));
            file.extend(&frame.0);
        }
        fs::write(path, file).expect("write a capture");
        Self(path)
    }

    /// The frames that fit a display filter, a line each.
    ///
    /// # Panics
    /// If tshark cannot be had or does not take the filter.
    #[must_use]
    #[track_caller]
    pub fn find(&self, filter: &str) -> Vec<String> {
        let mut tshark = TSHARK.program("usr/bin/tshark").unwrap_or_else(|e| panic!("{e:#}"));
        // Its settings are its own: not those of whoever runs the test.
        tshark.env("HOME", "/nonexistent").args(["-n", "-r"]).arg(self.0).args(["-Y", filter]);
        for protocol in ["ip", "udp", "tcp"] {
            tshark.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
        }
        let found = exec::finish(&mut tshark).expect_success();
        found.lines().map(str::to_owned).collect()
    }

    /// The frames that are not as they should be.
    #[must_use]
    #[track_caller]
    pub fn broken(&self) -> Vec<String> {
        self.find(BROKEN)
    }
}
