//! What pods are to be recorded, and by what words: an annotation of a pod, a label of a namespace, or an object.

mod follow;
mod objects;

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};

pub(crate) use self::follow::nanoseconds;
pub use self::{
    follow::{ContainerState, NodePod, NodePods, PodState, Termination},
    objects::NamedRecording,
};

/// On a pod (annotation) or a namespace (label): have it, or its pods, recorded in as much memory, as in `64MiB`. As with
/// [`LABEL`](crate::consent::LABEL), nobody could own the prefix.
pub const RECORD: &str = "sniff/record";
/// The group of the objects. `.internal` is reserved for private use, so that nobody can own it.
pub const GROUP: &str = "sniff.internal";
/// Its version.
pub const VERSION: &str = "v1alpha1";

/// Most bytes that one pod may be recorded in.
const MOST: u64 = 2 << 30;
/// Fewest.
const LEAST: u64 = 1 << 20;

/// An object that has pods recorded, as far as it makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Which pods of its namespace, in kubectl's language; all when it is empty.
    pub selector: String,
    /// Bytes of memory for each, or why there are none.
    pub memory: Result<u64, String>,
    /// Only packets that match this.
    pub filter: Option<String>,
    /// Most bytes kept of a packet.
    pub snaplen: Option<u32>,
    /// Whether only headers are kept.
    pub headers: bool,
    /// How much is kept of each flow, as `--cutoff` has it; nobody has looked at it.
    pub cutoff: Option<String>,
    /// What has what is recorded saved at once.
    pub save_when: Option<SaveWhen>,
    /// Why, in the words of whoever has made it.
    pub reason: Option<String>,
}

/// Packets that come too fast, as an object says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaveWhen {
    /// Which packets, in tcpdump's language.
    pub filter: Option<String>,
    /// How many of them a second are none.
    pub per_second: Option<u32>,
}

impl Recording {
    /// What an object says; nothing in it is trusted.
    fn of(object: &DynamicObject) -> Self {
        let spec = &object.data["spec"];
        let text = |name: &str| spec[name].as_str().map(str::to_owned);
        Self {
            selector: text("selector").unwrap_or_default(),
            memory: memory(spec["memory"].as_str().unwrap_or_default()),
            filter: text("filter"),
            snaplen: spec["snaplen"].as_u64().and_then(|snaplen| u32::try_from(snaplen).ok()),
            headers: spec["headers"].as_bool().unwrap_or_default(),
            cutoff: text("cutoff"),
            save_when: spec.get("saveWhen").map(|it| SaveWhen {
                filter: it["filter"].as_str().map(str::to_owned),
                per_second: it["perSecond"].as_u64().and_then(|count| u32::try_from(count).ok()),
            }),
            reason: text("reason"),
        }
    }
}

/// Bytes of memory, as in `64MiB` or Kubernetes' `64Mi`.
///
/// # Errors
///
/// When it is no size, or one that makes no sense.
pub fn memory(text: &str) -> Result<u64, String> {
    let is_sound = |size: &u64| (LEAST..=MOST).contains(size);
    let size = text.parse::<bytesize::ByteSize>().map(|size| size.as_u64());
    size.ok().filter(is_sound).ok_or_else(|| {
        let shown: String = text.chars().take(32).collect();
        format!("{shown:?} is no memory for a recording: it is 1MiB to 2GiB, as in 64MiB")
    })
}

pub(crate) fn resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, "Recording"), "recordings")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_size_that_makes_sense() {
        for (text, size) in [("64MiB", 64 << 20), ("64Mi", 64 << 20), ("1GiB", 1 << 30), ("2Gi", 2 << 30)] {
            assert_eq!(memory(text), Ok(size), "{text}");
        }
        for bad in ["", "off", "64", "1KiB", "3GiB", "-1MiB", "\u{1b}[31m"] {
            let error = memory(bad).expect_err(bad);
            assert!(!error.contains(char::is_control), "{error}");
        }
    }
}
