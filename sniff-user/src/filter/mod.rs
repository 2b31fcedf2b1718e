//! Filters: from an expression in libpcap's language to eBPF instructions that stand in front of a classifier.
//!
//! libpcap compiles the text ([`expression`]) to classic BPF ([`cbpf`]), which is decoded and validated; [`compile`]
//! translates that to eBPF ([`ebpf`]). Nothing here touches the kernel or needs privileges.

pub mod cbpf;
pub mod compile;
pub mod ebpf;
pub mod expression;

use std::{collections::HashMap, fs, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use sniff_common::Direction;

use crate::pcapng::LinkType;
use compile::{Error, Fragment, Hook};

/// Where an expression comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Text(String),
    /// A file, with comments.
    File(PathBuf),
}

impl Source {
    /// The expression as it is now; `None` when it lets every packet pass.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn read(&self) -> Result<Option<String>> {
        let text = match self {
            Self::Text(text) => text.clone(),
            Self::File(path) => {
                let text = fs::read_to_string(path)
                    .with_context(|| format!("cannot read the filter from {}", path.display()))?;
                expression::without_comments(&text)
            }
        };
        let text = text.trim_end();
        Ok((!text.trim().is_empty()).then(|| text.to_owned()))
    }
}

/// What stands in front of a classifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Nothing: every packet passes.
    All,
    /// Those that it matches pass.
    Some(Arc<Fragment>),
    /// No packet of this direction would pass: no classifier is needed.
    None,
}

/// Compiles expressions, each only once.
#[derive(Debug)]
pub struct Filters {
    /// Whether libpcap's optimiser stays out.
    no_optimize: bool,
    compiled: HashMap<(String, LinkType, Direction), Filter>,
}

impl Filters {
    /// A compiler that has compiled nothing yet.
    pub fn new(no_optimize: bool) -> Self {
        Self { no_optimize, compiled: HashMap::new() }
    }

    /// The filter for packets of one direction. What leaves the pod is what `outbound` means.
    ///
    /// # Errors
    ///
    /// When libpcap does not take the expression, or it cannot be translated.
    pub fn of(&mut self, text: Option<&str>, link_type: LinkType, direction: Direction) -> Result<Filter> {
        let Some(text) = text else { return Ok(Filter::All) };
        let key = (text.to_owned(), link_type, direction);
        if let Some(filter) = self.compiled.get(&key) {
            return Ok(filter.clone());
        }
        let program = expression::compile(text, link_type, !self.no_optimize)?;
        let hook = Hook { link_type, outgoing: direction == Direction::Out };
        let filter = match compile::fragment(&program, hook) {
            Ok(fragment) => Filter::Some(Arc::new(fragment)),
            Err(Error::NeverMatches) => Filter::None,
            Err(error) => return Err(error.into()),
        };
        self.compiled.insert(key, filter.clone());
        Ok(filter)
    }
}
