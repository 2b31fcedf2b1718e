//! A chart of what a packet costs with each tool: bars, one group for each scenario, in units of what it
//! costs with tcpdump.

use anyhow::{Result, anyhow};
use plotters::{
    prelude::{
        BLACK, DrawingAreaErrorKind, DrawingBackend, IntoDrawingArea as _, IntoFont as _, PathElement,
        RGBColor, Rectangle, SVGBackend, Text, WHITE,
    },
    style::{
        Color as _, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use crate::{
    scenario,
    summary::{Summary, find},
    tools::TCPDUMP,
};

const WIDTH: i32 = 900;
/// Where bars begin.
const LEFT: i32 = 150;
/// Pixels for what tcpdump costs.
const UNIT: f64 = 160.0;
/// Longer bars are cut.
const LONGEST: f64 = 3.6;
const BAR: i32 = 14;
const GAP: i32 = 3;
const TITLE: i32 = 26;
const HEADER: i32 = 60;

const SNIFF: RGBColor = RGBColor(0x1b, 0x7f, 0x5c);
const OTHER: RGBColor = RGBColor(0x6b, 0x74, 0x80);
/// How strong the colour of the process's part is.
const FAINT: f64 = 0.45;

/// The bars of one scenario.
struct Group<'run> {
    title: &'static str,
    tcpdump_ns: f64,
    lines: Vec<&'run Summary>,
}

/// The chart as SVG; `sniffs` are the names of the builds of sniff. `None` when tcpdump was not measured.
///
/// # Errors
/// The chart cannot be drawn.
pub fn svg(summaries: &[Summary], sniffs: &[String]) -> Result<Option<String>> {
    let groups = groups(summaries);
    if groups.is_empty() {
        return Ok(None);
    }
    let mut svg = String::new();
    draw(&groups, sniffs, &mut svg).map_err(|error| anyhow!("cannot draw the chart: {error}"))?;
    Ok(Some(svg))
}

fn groups(summaries: &[Summary]) -> Vec<Group<'_>> {
    let group = |scenario: &scenario::Scenario| {
        let tcpdump_ns = find(summaries, scenario.name, TCPDUMP)?.cost?.total;
        let lines =
            summaries.iter().filter(|line| line.scenario == scenario.name && line.cost.is_some()).collect();
        (tcpdump_ns > 0.0).then_some(Group { title: scenario.title, tcpdump_ns, lines })
    };
    scenario::ALL.iter().filter_map(group).collect()
}

fn height(groups: &[Group]) -> i32 {
    let group = |group: &Group| TITLE + group.lines.len() as i32 * (BAR + GAP);
    HEADER + groups.iter().map(group).sum::<i32>() + BAR
}

type DrawingResult<'svg> = Result<(), DrawingAreaErrorKind<<SVGBackend<'svg> as DrawingBackend>::ErrorType>>;

fn draw<'svg>(groups: &[Group], sniffs: &[String], svg: &'svg mut String) -> DrawingResult<'svg> {
    let height = height(groups);
    let area = SVGBackend::with_string(svg, (WIDTH as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: f64, horizontal| {
        TextStyle::from(("sans-serif", size).into_font()).pos(Pos::new(horizontal, VPos::Center))
    };
    area.draw(&Text::new(
        "CPU time of a captured packet, in units of tcpdump -B 64 MiB",
        (12, 18),
        text(20.0, HPos::Left),
    ))?;
    let legend = "dark: in the sender's path; light: in the tool's process; at the end: both, in ns";
    area.draw(&Text::new(legend, (12, 42), text(15.0, HPos::Left)))?;
    let unit = LEFT + UNIT as i32;
    area.draw(&PathElement::new([(unit, HEADER), (unit, height - BAR)], BLACK.mix(0.3)))?;

    let mut y = HEADER;
    for Group { title, tcpdump_ns, lines } in groups {
        area.draw(&Text::new(*title, (12, y + TITLE / 2), text(16.0, HPos::Left)))?;
        y += TITLE;
        for line in lines {
            let Some(cost) = line.cost else { continue };
            let colour = if sniffs.contains(&line.tool) { SNIFF } else { OTHER };
            let at = |ns: f64| LEFT + ((ns / tcpdump_ns).clamp(0.0, LONGEST) * UNIT) as i32;
            let (middle, end) = (at(cost.in_path), at(cost.in_path.max(0.0) + cost.process));
            area.draw(&Rectangle::new([(LEFT, y), (middle, y + BAR)], colour.filled()))?;
            area.draw(&Rectangle::new([(middle, y), (end, y + BAR)], colour.mix(FAINT).filled()))?;
            area.draw(&Text::new(line.tool.as_str(), (LEFT - 6, y + BAR / 2), text(14.0, HPos::Right)))?;
            let cut = if cost.total / tcpdump_ns > LONGEST { " (cut)" } else { "" };
            let figures = format!("{:.0} ns, {:.2}{cut}", cost.total, cost.total / tcpdump_ns);
            area.draw(&Text::new(figures, (end + 6, y + BAR / 2), text(14.0, HPos::Left)))?;
            y += BAR + GAP;
        }
    }
    area.present()
}

#[cfg(test)]
mod tests {
    use super::svg;
    use crate::{
        measure::{Account, Cost, Figures, Outcome, Sample},
        summary::summarise,
    };

    fn sample(tool: &str, in_path_ns: f64) -> Sample {
        let account = Account { offered: 1, kept: 1, reported: Some(0), file_bytes: 1 };
        let cost = Cost { bare_ns: 1_000.0, in_path_ns, process_ns: 100.0 };
        let figures = Figures { cost: Some(cost), account: Some(account), ..Figures::default() };
        Sample { scenario: "64", tool: tool.into(), round: 1, outcome: Outcome::Measured(figures) }
    }

    #[test]
    fn each_tool_has_a_bar_with_its_figure() {
        let summaries =
            summarise(&[sample("sniff", 150.0), sample("tcpdump", 400.0), sample("slow", 4_900.0)]);
        let svg = svg(&summaries, &["sniff".to_owned()]).unwrap().unwrap();
        for figure in ["250 ns, 0.50", "500 ns, 1.00", "5000 ns, 10.00 (cut)"] {
            assert!(svg.contains(figure), "no {figure:?} in {svg}");
        }
    }

    #[test]
    fn there_is_no_chart_without_tcpdump() {
        assert!(svg(&summarise(&[sample("sniff", 150.0)]), &[]).unwrap().is_none());
    }
}
