//! `enqueue --bulk … --rejected FILE`: writes the refused lines with their reasons, to be mended and enqueued again.
//!
//! A JSON object stays one and gets the key `refused`, which `--bulk` ignores. Any other line becomes the text of `line`.
//!
//! Invariant: this call makes the file, and only if a line is refused. An existing file is never overwritten.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::value::RawValue;

use super::failure::Failure;
use crate::ops::Source;

#[derive(Debug)]
pub(super) struct Rejected {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    failed: Option<io::Error>,
}

impl Rejected {
    pub(super) fn new(path: &Path) -> Result<Self, Failure> {
        if path.symlink_metadata().is_ok() {
            return Err(Failure::Usage(format!(
                "the file for refused lines is there already: `{}`; enqueue what it holds and remove it, or name another by --rejected",
                path.display()
            )));
        }
        Ok(Self { path: path.to_owned(), file: None, failed: None })
    }

    pub(super) fn keep(&mut self, line: &Source, why: &str) {
        if self.failed.is_none() {
            self.failed = self.write(line, why).err();
        }
    }

    fn write(&mut self, line: &Source, why: &str) -> io::Result<()> {
        let text = String::from_utf8_lossy(line.text.as_deref().unwrap_or_default());
        let refused = format!("line {}: {why}", line.number);
        let out = match &mut self.file {
            Some(file) => file,
            none => none.insert(BufWriter::new(File::create_new(&self.path)?)),
        };
        // Raw values, so that no number changes.
        if let Ok(mut object) = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(&text) {
            object.insert("refused".to_owned(), serde_json::value::to_raw_value(&refused)?);
            serde_json::to_writer(&mut *out, &object)?;
        } else {
            serde_json::to_writer(&mut *out, &Unread { refused: &refused, line: &text })?;
        }
        out.write_all(b"\n")
    }

    /// What to do with the file, if at least one line was refused.
    pub(super) fn end(mut self) -> String {
        let flushed = self.file.as_mut().map_or(Ok(()), BufWriter::flush);
        let path = self.path.display();
        match self.failed.map_or(flushed, Err) {
            Ok(()) => format!("they stand in `{path}`: mend them there and enqueue it with --bulk"),
            Err(error) => format!("not all of them could be written to `{path}` ({error}): mend those lines and enqueue them alone"),
        }
    }
}

#[derive(Serialize)]
struct Unread<'a> {
    refused: &'a str,
    line: &'a str,
}
