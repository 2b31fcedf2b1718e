//! The verifier takes every program that sniff can make: filter, arguments, and capture function.

use std::{collections::HashSet, slice, sync::Arc};

use clap::ValueEnum as _;
use sniff_cli::logging;
use sniff_common::{
    Direction, MAX_SNAPLEN, MIN_RING_BYTES,
    flow::{MAX_CUTOFF, MAX_EVERY},
};
use sniff_filter::{Filter, Filters, compile::Fragment};
use sniff_protocol::request::Cutoff;
use sniff_tests::{
    filter::{
        LinkType, engines,
        expressions::{Entry, Expected, table},
    },
    kernel,
};
use sniff_user::{
    bpf::{
        checksum::Summed,
        classifier::{self, Arguments},
        home::Home,
        object::{KernelSide, Sizes},
        ring,
    },
    net::{hook::Hook, netns::Netns},
    system::privileges,
};

const LINK_TYPES: [LinkType; 2] = [LinkType::Ethernet, LinkType::Raw];

/// Filters that are loaded as sniff loads them.
const LONGEST: usize = 10;

/// A pcapng interface id; a capture can have any number.
const LAST_INTERFACE: u32 = 299;

/// The maps for which programs are loaded, with each kind of ring.
fn kernel_sides() -> Vec<KernelSide> {
    privileges::raise_limits();
    let load = |ring: &&str| {
        let ring = ring::Kind::from_str(ring, false).expect("a kind of ring");
        let batch = ring::Batch::Large;
        let sizes = Sizes { ring, ring_bytes: MIN_RING_BYTES, batch, has_cutoff: true };
        KernelSide::load(sizes).expect("the maps")
    };
    kernel::rings().iter().map(load).collect()
}

/// Snapshot lengths of every kind: the smallest and the largest, usual ones, and one for most classes of records.
const SNAPLENS: [u32; 13] = [1, 4, 16, 60, 96, 256, 1024, 1514, 4096, 16_384, 65_535, 131_072, MAX_SNAPLEN];

#[test]
fn every_variant_of_the_classifier_is_taken() {
    for kernel_side in kernel_sides() {
        let refused = variants().filter(|arguments| {
            classifier::load(&kernel_side.body(), slice::from_ref(arguments), || false).is_err()
        });
        let refused = refused.collect::<Vec<_>>();
        if let [first, ..] = &refused[..] {
            panic!("{} are not: {refused:#?}\n{}", refused.len(), refusal(&kernel_side, first));
        }
    }
}

/// What keeps a classifier to this namespace. Every kernel that has TCX, with which it is needed, can do that.
fn home() -> Option<Home> {
    let home = Home::of(&Netns::current().expect("a namespace")).expect("what it is known by");
    assert!(home.is_some() || !kernel::has_tcx());
    home
}

/// Cutoffs of every kind.
const CUTOFFS: [Cutoff; 3] = [
    Cutoff { bytes: 1, every: 0 },
    Cutoff { bytes: 16_384, every: 1 },
    Cutoff { bytes: MAX_CUTOFF, every: MAX_EVERY },
];

/// Each snapshot length, whole packets or headers alone, with each kind of packet: one of them with room for an id, the
/// other without; and without a cutoff, and with one. The place is a constant that no branch depends on: any will do.
fn variants() -> impl Iterator<Item = Arguments> {
    let lengths = SNAPLENS.iter().flat_map(|&snaplen| [false, true].map(|headers| (snaplen, headers)));
    let packets = lengths.flat_map(|(snaplen, headers)| {
        LINK_TYPES.map(|link_type| (snaplen, headers, link_type, headers != (link_type == LinkType::Raw)))
    });
    let cutoffs = CUTOFFS.iter().cycle();
    let packets =
        packets.zip(cutoffs).flat_map(|(packet, &cutoff)| [None, Some(cutoff)].map(|it| (packet, it)));
    let places = [(Direction::In, Hook::Ingress, 0), (Direction::Out, Hook::Egress, LAST_INTERFACE)];
    let places = places.into_iter().cycle();
    // As many as have no common divisor with the places.
    let (home, summed) = (home(), Summed::known());
    let alarm = Filters::new(false).of(Some("tcp port 443 or icmp"), LinkType::Raw, Direction::In);
    let Ok(Filter::Matching(alarm)) = alarm else { panic!("{alarm:?}") };
    let kernels_words = [(None, None), (None, summed), (home, None), (home, summed), (None, summed)];
    packets.zip(places).zip(kernels_words.into_iter().cycle()).map(
        move |((packet, place), (home, summed))| {
            let ((packet, cutoff), (direction, hook, interface)) = (packet, place);
            let (snaplen, headers, link_type, packetid) = packet;
            let clock_offset = 1_700_000_000_000_000_000;
            Arguments {
                filter: None,
                alarm: (link_type == LinkType::Raw).then(|| Arc::clone(&alarm)),
                interface,
                direction,
                hook,
                snaplen,
                headers,
                cutoff,
                link_type,
                packetid,
                clock_offset,
                home,
                summed,
            }
        },
    )
}

/// What is said of a program that is not taken; the verifier's words go to the console.
fn refusal(kernel_side: &KernelSide, arguments: &Arguments) -> String {
    // At this level sniff tells what the verifier says.
    logging::start(false, 1);
    let error = classifier::load(&kernel_side.body(), slice::from_ref(arguments), || false).err();
    format!("{:#}", error.expect("refused a second time, too"))
}

#[test]
fn the_filters_of_all_expressions_are_taken() {
    let mut filters = distinct_filters();
    assert!(filters.len() > 900, "{}", filters.len());
    for (text, fragment) in &filters {
        // What stands behind a filter does not depend on it, so something short will do.
        let loaded = engines::verify(fragment);
        assert!(loaded.is_ok(), "{text}: {}\n{fragment}", loaded.unwrap_err());
    }
    // And the longest ones in front of the real thing.
    filters.sort_by_key(|(_, fragment)| fragment.instructions().len());
    for kernel_side in kernel_sides() {
        for (text, fragment) in filters.iter().rev().take(LONGEST) {
            let arguments = Arguments {
                filter: Some(Arc::clone(fragment)),
                alarm: Some(Arc::clone(fragment)),
                interface: 0,
                direction: Direction::In,
                hook: Hook::Ingress,
                snaplen: MAX_SNAPLEN,
                headers: false,
                cutoff: Some(CUTOFFS[1]),
                link_type: LinkType::Ethernet,
                packetid: true,
                clock_offset: 0,
                home: home(),
                summed: Summed::known(),
            };
            if classifier::load(&kernel_side.body(), slice::from_ref(&arguments), || false).is_err() {
                panic!("{text}: {}\n{fragment}", refusal(&kernel_side, &arguments));
            }
        }
    }
}

/// What the table's expressions compile to, optimised and not, for each kind of interface and direction, each program
/// once with an expression that it comes of.
fn distinct_filters() -> Vec<(&'static str, Arc<Fragment>)> {
    let mut seen = HashSet::new();
    let mut distinct = Vec::new();
    for no_optimize in [false, true] {
        let mut filters = Filters::new(no_optimize);
        for (entry, link_type) in table().into_iter().flat_map(|entry| LINK_TYPES.map(|it| (entry, it))) {
            for direction in Direction::BOTH {
                let Some(fragment) = compile(&mut filters, entry, link_type, direction) else { continue };
                if seen.insert(fragment.to_string()) {
                    distinct.push((entry.text, fragment));
                }
            }
        }
    }
    distinct
}

fn compile(
    filters: &mut Filters,
    entry: Entry,
    link_type: LinkType,
    direction: Direction,
) -> Option<Arc<Fragment>> {
    match filters.of(Some(entry.text), link_type, direction) {
        Ok(Filter::Matching(fragment)) => Some(fragment),
        Ok(Filter::Everything | Filter::Nothing) => None,
        Err(error) => {
            let expected = entry.expected(link_type);
            assert!(
                matches!(expected, Expected::Refused | Expected::NotForKernel),
                "{}: {error:#}",
                entry.text
            );
            None
        }
    }
}
