//! dumpcap's words for when to stop and when to begin another file.

use std::{str::FromStr, time::Duration};

/// Bytes of what dumpcap calls a kB.
const KB: u64 = 1000;

/// A condition, as in `duration:30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// So much time has passed.
    Duration(Duration),
    /// The file has so many bytes.
    FileBytes(u64),
    /// There are so many files.
    Files(u64),
    /// So many packets are there.
    Packets(u64),
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown =
            || "it is one of duration:SECONDS, filesize:KB, files:COUNT and packets:COUNT".to_owned();
        let (kind, number) = text.split_once(':').ok_or_else(unknown)?;
        let count = || match number.parse::<u64>() {
            Ok(0) | Err(_) => Err(format!("{number:?} is no number of at least 1")),
            Ok(count) => Ok(count),
        };
        Ok(match kind {
            "duration" => Self::Duration(seconds(number)?),
            "filesize" => {
                Self::FileBytes(count()?.checked_mul(KB).ok_or("that is more than a file can have")?)
            }
            "files" => Self::Files(count()?),
            "packets" => Self::Packets(count()?),
            "interval" => return Err("files end after a time of their own: type duration:SECONDS".to_owned()),
            "printname" => return Err("names of files are not printed: list the folder".to_owned()),
            _ => return Err(unknown()),
        })
    }
}

/// Seconds, as in `30` or `0.5`.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|time| !time.is_zero()).ok_or_else(|| format!("{text:?} is no number of seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_as_dumpcap_has_them() {
        for (text, expected) in [
            ("duration:30", Condition::Duration(Duration::from_secs(30))),
            ("duration:0.5", Condition::Duration(Duration::from_millis(500))),
            ("filesize:100000", Condition::FileBytes(100_000_000)),
            ("files:5", Condition::Files(5)),
            ("packets:7", Condition::Packets(7)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused_with_what_is() {
        for (text, part) in [
            ("", "duration:SECONDS"),
            ("30", "packets:COUNT"),
            ("size:5", "filesize:KB"),
            ("duration:0", "seconds"),
            ("duration:-1", "seconds"),
            ("duration:inf", "seconds"),
            ("duration:NaN", "seconds"),
            ("files:0", "at least 1"),
            ("packets:x", "at least 1"),
            ("filesize:18446744073709551615", "more than a file"),
            ("interval:60", "type duration:SECONDS"),
            ("printname:stdout", "list the folder"),
        ] {
            let wrong = text.parse::<Condition>().expect_err(text);
            assert!(wrong.contains(part), "{text}: {wrong}");
        }
    }
}
