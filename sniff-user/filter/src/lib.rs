//! Filters: from an expression in libpcap's language to eBPF instructions that stand in front of a classifier.
//!
//! libpcap compiles the text ([`expression`]) to classic BPF ([`cbpf`]), which is decoded and validated; [`compile`]
//! translates that to eBPF ([`ebpf`]). Nothing here touches the kernel or needs privileges.

pub mod cbpf;
pub mod compile;
pub mod ebpf;
pub mod expression;

use std::{
    collections::HashMap,
    fmt, fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use cbpf::Program;
use compile::{Error, Fragment, Surroundings};
use sniff_common::Direction;
use sniff_pcapng::LinkType;
use tokio::sync::oneshot;

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

/// Which packets of one direction pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// All of them: nothing stands in front of the classifier.
    Everything,
    /// Those that this matches.
    Matching(Arc<Fragment>),
    /// None: no classifier is needed.
    Nothing,
}

/// Makes a program of an expression.
type Compile = dyn Fn(&str, LinkType) -> Result<Program> + Send + Sync;

/// Compiles expressions, each only once. Clones share what was compiled.
#[derive(Clone)]
pub struct Filters {
    compile: Arc<Compile>,
    /// Held only to look and to put something in: libpcap may take minutes, and more if it asks for names.
    compiled: Arc<Mutex<Compiled>>,
}

impl fmt::Debug for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filters").field("compiled", &self.compiled).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Compiled {
    programs: HashMap<(String, LinkType), Arc<Program>>,
    filters: HashMap<(String, LinkType, Direction), Filter>,
}

impl Filters {
    /// A compiler that has compiled nothing yet; libpcap's optimiser stays out if there is to be `no_optimize`.
    pub fn new(no_optimize: bool) -> Self {
        Self::compiled_by(move |text, link_type| Ok(expression::compile(text, link_type, !no_optimize)?))
    }

    /// The same, with somebody else who has libpcap compile them.
    pub fn compiled_by(compile: impl Fn(&str, LinkType) -> Result<Program> + Send + Sync + 'static) -> Self {
        Self { compile: Arc::new(compile), compiled: Arc::default() }
    }

    /// The filter for packets of one direction. What leaves the pod is what `outbound` means.
    ///
    /// # Errors
    ///
    /// When libpcap does not take the expression, or it cannot be translated.
    pub fn of(&self, text: Option<&str>, link_type: LinkType, direction: Direction) -> Result<Filter> {
        let Some(text) = text else { return Ok(Filter::Everything) };
        let key = (text.to_owned(), link_type, direction);
        if let Some(filter) = self.lock().filters.get(&key) {
            return Ok(filter.clone());
        }
        let program = self.program(text, link_type)?;
        let surroundings = Surroundings { link_type, outgoing: direction == Direction::Out };
        let filter = match compile::fragment(&program, surroundings) {
            Ok(fragment) => Filter::Matching(Arc::new(fragment)),
            Err(Error::NeverMatches) => Filter::Nothing,
            Err(error) => return Err(error.into()),
        };
        self.lock().filters.insert(key, filter.clone());
        Ok(filter)
    }

    /// Compiles on a thread of its own, so that [`Filters::of`] has it at once. Nothing can interrupt libpcap: whoever
    /// drops the future leaves the thread behind, until it is done or the process ends.
    ///
    /// # Errors
    ///
    /// When libpcap does not take the expression.
    pub async fn prepare(&self, text: String, link_type: LinkType) -> Result<()> {
        let (done, is_done) = oneshot::channel();
        let filters = self.clone();
        let compile = move || {
            // Nobody may want it any more.
            let _ = done.send(filters.program(&text, link_type).map(drop));
        };
        thread::Builder::new().name("filter".to_owned()).spawn(compile)?;
        is_done.await.context("the thread that compiles the filter panicked")?
    }

    /// What libpcap makes of a text, which is the same for both directions.
    fn program(&self, text: &str, link_type: LinkType) -> Result<Arc<Program>> {
        let key = (text.to_owned(), link_type);
        if let Some(program) = self.lock().programs.get(&key) {
            return Ok(Arc::clone(program));
        }
        let program = Arc::new((self.compile)(text, link_type)?);
        self.lock().programs.insert(key, Arc::clone(&program));
        Ok(program)
    }

    fn lock(&self) -> MutexGuard<'_, Compiled> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libpcap_compiles_a_text_once_for_both_directions() {
        let filters = Filters::new(false);
        let of = |text, direction| filters.of(Some(text), LinkType::Ethernet, direction).unwrap();
        assert_eq!(of("tcp port 443", Direction::In), of("tcp port 443", Direction::Out));
        assert_eq!(filters.lock().programs.len(), 1);
        assert_ne!(of("inbound", Direction::In), of("inbound", Direction::Out));
        assert_eq!(filters.lock().programs.len(), 2);
    }
}
