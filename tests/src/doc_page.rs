//! A page of the documentation, followed as its reader would: its commands are run as they stand.
//!
//! Of the page's fenced blocks:
//!
//! * `sh` is run on every machine, one after the other; `sh on=NAME` on that machine alone;
//! * `text` behind it is what the last command printed: its lines appear in this order, `…` stands for anything;
//! * `sh install` names Debian packages (`apt-get install …`): the machine has them already, and the page may name no others;
//! * `sh build` says how to build from a clone: it is not run, since whoever tests has built.
//!
//! Blocks in other languages are for reading. Nothing else of a page is left out, and nothing is put in the place of anything
//! but what the test names: addresses, and where the programs were built.

use std::{collections::BTreeMap, fs, path::Path};

use crate::room::{Outcome, Room};

/// A fenced block of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    /// Where it begins in the page.
    line: usize,
    language: String,
    /// The words after the language.
    tags: Vec<String>,
    text: String,
}

/// A page.
#[derive(Clone, Debug)]
pub struct Page {
    name: String,
    blocks: Vec<Block>,
}

impl Page {
    /// Reads `docs/NAME` of the repository, or `README.md`.
    ///
    /// # Panics
    /// If there is no such page.
    #[must_use]
    #[track_caller]
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { name: name.to_owned(), blocks: blocks(&text) }
    }

    /// The page with another text for one that stands in its commands.
    ///
    /// # Panics
    /// If it does not stand in any.
    #[must_use]
    #[track_caller]
    pub fn with(mut self, there: &str, instead: &str) -> Self {
        let is_in = self.blocks.iter().any(|block| block.text.contains(there));
        assert!(is_in, "{} says nothing of {there}", self.name);
        for block in &mut self.blocks {
            block.text = block.text.replace(there, instead);
        }
        self
    }

    /// Follows the page on these machines.
    ///
    /// # Panics
    /// If a command fails, prints something else than the page says, or is for a machine that is not there; or if the page
    /// has one installed that is not among `packages`.
    #[track_caller]
    pub fn follow(&self, rooms: &mut BTreeMap<&str, Room>, packages: &[&str]) {
        let mut printed = String::new();
        for block in &self.blocks {
            let place = format!("{}:{}", self.name, block.line);
            match (block.language.as_str(), block.tag()) {
                ("sh", Some("build")) => {}
                ("sh", Some("install")) => expect_packages(&place, &block.text, packages),
                ("sh", None) => {
                    for room in rooms.values_mut() {
                        printed = run(&place, room, &block.text);
                    }
                }
                ("sh", Some(tag)) => {
                    let name = tag.strip_prefix("on=").unwrap_or_else(|| panic!("{place}: what is {tag:?}?"));
                    let room = rooms.get_mut(name).unwrap_or_else(|| panic!("{place}: there is no {name}"));
                    printed = run(&place, room, &block.text);
                }
                ("text", _) => expect_printed(&place, &block.text, &printed),
                _ => {}
            }
        }
    }
}

impl Block {
    fn tag(&self) -> Option<&str> {
        self.tags.first().map(String::as_str)
    }
}

#[track_caller]
fn run(place: &str, room: &mut Room, script: &str) -> String {
    let Outcome { output, code } = room.run(script);
    assert_eq!(code, Some(0), "{place}:\n{script}\nprinted:\n{output}");
    output
}

#[track_caller]
fn expect_packages(place: &str, script: &str, packages: &[&str]) {
    let words = script.split_whitespace().filter(|word| !word.starts_with('-'));
    let named = words.filter(|word| !["sudo", "apt-get", "apt", "install", "update", "&&"].contains(word));
    for package in named {
        assert!(packages.contains(&package), "{place}: the test has no {package}");
    }
}

/// Each line as it stands, in this order; others may come between. `…` stands for anything.
#[track_caller]
fn expect_printed(place: &str, expected: &str, printed: &str) {
    let mut left = printed.lines();
    for line in expected.lines().filter(|line| line.trim() != "…") {
        let found = left.any(|there| fits(line.trim_end(), there.trim_end()));
        assert!(found, "{place}: nothing like this line was printed:\n{line}\nbut:\n{printed}");
    }
}

fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut left) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return left.is_empty() };
    for part in middle {
        let Some((_, behind)) = left.split_once(part) else { return false };
        left = behind;
    }
    left.ends_with(last)
}

/// The fenced blocks of a page.
fn blocks(text: &str) -> Vec<Block> {
    let (mut blocks, mut open) = (Vec::new(), None::<Block>);
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, Some(info)) => {
                let mut words = info.split_whitespace().map(str::to_owned);
                let language = words.next().unwrap_or_default();
                open = Some(Block { line: number + 1, language, tags: words.collect(), text: String::new() });
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed: {open:?}");
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_with_language_tags_and_place() {
        let page = "# Page\n```sh on=host1\na\nb\n```\ntext\n```text\nc…\n```\n";
        let block = |line, language: &str, tags: &[&str], text: &str| Block {
            line,
            language: language.to_owned(),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            text: text.to_owned(),
        };
        assert_eq!(blocks(page), [block(2, "sh", &["on=host1"], "a\nb\n"), block(7, "text", &[], "c…\n")]);
    }

    #[test]
    fn dots_stand_for_anything() {
        for (pattern, text, is_fit) in [
            ("a b", "a b", true),
            ("a b", "a b c", false),
            ("a … c", "a b b c", true),
            ("…time=… ms", "64 bytes: time=0.1 ms", true),
            ("a…", "b", false),
            ("a…b", "a", false),
        ] {
            assert_eq!(fits(pattern, text), is_fit, "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_printed_is_compared_line_by_line_in_order() {
        expect_printed("x", "one\n…\nthree\n", "zero\none\ntwo\nthree");
        let wrong = std::panic::catch_unwind(|| expect_printed("x", "three\none\n", "one\ntwo\nthree"));
        assert!(wrong.is_err());
    }

    #[test]
    fn packages_that_the_test_lacks_are_not_installed_silently() {
        expect_packages("x", "sudo apt-get install -y podman \n", &["podman"]);
        assert!(
            std::panic::catch_unwind(|| expect_packages("x", "apt-get install docker.io", &["podman"]))
                .is_err()
        );
    }
}
