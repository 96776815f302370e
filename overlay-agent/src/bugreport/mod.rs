//! Everything that somebody needs who is to find a fault here, in one archive, and none of its secrets.
//!
//! * [`collect`]: what goes in
//! * [`redact`]: what does not
//!
//! A part that cannot be had is named with the reason, and keeps nothing else out.

pub mod collect;
pub mod redact;

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use flate2::{Compression, write::GzEncoder};
use serde::Serialize;

use self::redact::Redactor;
use crate::model::Timestamp;

/// Largest part; a log or a map may be endless, and its end tells the most.
const MAX_PART: usize = 8 * 1024 * 1024;

/// Texts by their file name.
#[derive(Debug, Default)]
pub struct Report {
    parts: BTreeMap<String, String>,
    missing: BTreeMap<String, String>,
}

/// What is in a report.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// File names.
    pub parts: Vec<String>,
    /// What could not be had, and why.
    pub missing: BTreeMap<String, String>,
}

impl Report {
    /// Takes a part up, or why it cannot be had.
    pub fn add(&mut self, name: &str, text: Result<String, String>) {
        match text {
            Ok(text) => self.parts.insert(name.to_owned(), end_of(text)),
            Err(reason) => self.missing.insert(name.to_owned(), reason),
        };
    }

    /// What is in it.
    #[must_use]
    pub fn contents(&self) -> Contents {
        Contents { parts: self.parts.keys().cloned().collect(), missing: self.missing.clone() }
    }

    /// Writes the archive (tar, gzip), below the directory `name`. Every text goes through `redactor`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, redactor: &Redactor, to: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(GzEncoder::new(to, Compression::default()));
        let missing: String =
            self.missing.iter().map(|(part, reason)| format!("{part}: {reason}\n")).collect();
        let missing = ("missing.txt".to_owned(), missing);
        for (part, text) in self.parts.iter().chain([(&missing.0, &missing.1)]) {
            let text = redactor.redact(text);
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(Timestamp::now().unix());
            archive.append_data(&mut header, format!("{name}/{part}"), text.as_bytes())?;
        }
        archive.into_inner()?.finish()?.flush()
    }
}

fn end_of(text: String) -> String {
    if text.len() <= MAX_PART {
        return text;
    }
    let from = (text.len() - MAX_PART..).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    format!("[the first {from} bytes are left out]\n{}", &text[from..])
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    fn read(archive: &[u8]) -> BTreeMap<String, String> {
        let mut archive = tar::Archive::new(GzDecoder::new(archive));
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        });
        entries.collect()
    }

    #[test]
    fn an_archive_has_all_parts_without_secrets_and_names_what_is_missing() {
        let mut report = Report::default();
        report.add("a/status.json", Ok("the token is hunter2hunter2\n".to_owned()));
        report.add("log.txt", Err("no journalctl, hunter2hunter2".to_owned()));
        let mut archive = Vec::new();
        report.write("dir", &Redactor::new(["hunter2hunter2".to_owned()]), &mut archive).unwrap();
        let expected = [
            ("dir/a/status.json", "the token is [removed]\n"),
            ("dir/missing.txt", "log.txt: no journalctl, [removed]\n"),
        ];
        assert_eq!(read(&archive), expected.map(|(name, text)| (name.to_owned(), text.to_owned())).into());
    }

    #[test]
    fn of_an_endless_part_the_end_is_kept() {
        let text = format!("{}ä{}", "x".repeat(10), "y".repeat(MAX_PART - 1));
        let kept = end_of(text);
        assert!(kept.starts_with("[the first 12 bytes are left out]\nyyy"), "{}", &kept[..60]);
    }
}
