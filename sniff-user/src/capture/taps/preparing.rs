//! Taps before they are attached: at which end, and with which filters. Nothing is touched.

use anyhow::{Result, anyhow, ensure};
use sniff_common::Direction;
use sniff_filter::{Filter, Filters};

use crate::{
    capture::{
        plan::Plan,
        tap::{self, Tap, link_type},
    },
    system::parallel,
    targets::Interface,
};

/// Taps for interfaces, with ids from `first` on, or why there can be none for one.
///
/// # Errors
///
/// When a filter does not compile, or lets no packet pass.
pub fn prepare(
    general: Option<&str>,
    plan: &Plan,
    first: u32,
    interfaces: Vec<Interface>,
) -> Result<(Vec<Tap>, Vec<anyhow::Error>)> {
    let directions = |interface: Interface| {
        let wanted = tap::directions(&interface, plan.directions);
        let directions = with_filters(&plan.filters, &interface, general, wanted)?;
        for &(direction, _) in &directions {
            plan.alarm_at(&interface, direction)?;
        }
        Ok((interface, directions))
    };
    let (interfaces, others): (Vec<_>, Vec<_>) =
        interfaces.into_iter().partition(|it| plan.only.is_none_or(|only| only == link_type(it)));
    let filtered = interfaces.into_iter().map(directions).collect::<Result<Vec<_>>>()?;
    // Each asks the kernel what else is at its hooks.
    let tap = |(interface, directions)| Tap::new(0, interface, plan.attach, plan.mechanism, directions);
    let mut refused: Vec<_> = others.iter().map(of_other_link_type).collect();
    let taps = parallel::map(filtered, tap).into_iter();
    let taps = taps.filter_map(|tap| tap.map_err(|error| refused.push(error)).ok());
    let taps = (first..).zip(taps).map(|(id, tap)| Tap { id, ..tap }).collect();
    Ok((taps, refused))
}

fn of_other_link_type(Interface { name, .. }: &Interface) -> anyhow::Error {
    anyhow!("{name}: classic pcap has packets of one link type, and this interface has another: write pcapng")
}

/// Each direction with the interface's own filter, or the general one.
pub(super) fn with_filters(
    filters: &Filters,
    interface: &Interface,
    general: Option<&str>,
    directions: &[Direction],
) -> Result<Vec<(Direction, Filter)>> {
    let text = interface.expression(general);
    let of = |&direction: &Direction| {
        Ok((direction, filters.of(text.as_deref(), link_type(interface), direction)?))
    };
    let with_filters = directions.iter().map(of).collect::<Result<Vec<_>>>()?;
    ensure!(
        with_filters.iter().any(|(_, filter)| *filter != Filter::Nothing),
        "{}: no packet matches the filter",
        interface.name
    );
    Ok(with_filters)
}
