//! A bar plot as SVG: the brokers' CPU time for each scenario, on a logarithmic scale.

use std::fmt::Write;

const COLOURS: [&str; 6] = ["#0b6e4f", "#c44536", "#6c757d", "#2f6690", "#e09f3e", "#7b2cbf"];
const LEFT: f64 = 130.0;
const WIDTH: f64 = 520.0;
const BAR: f64 = 9.0;
const GAP: f64 = 8.0;
/// Number of brokers in one line of names.
const NAMES: usize = 5;

/// Draws the main figures of each scenario, in the order of the brokers' names.
pub fn bars(names: &[&str], scenarios: &[(&str, Vec<Option<f64>>)], machine: &str) -> String {
    let values = || scenarios.iter().flat_map(|(_, values)| values.iter().flatten().copied());
    let least = values().fold(f64::MAX, f64::min).max(0.001).log10().floor();
    let most = values().fold(0.001, f64::max).log10().ceil().max(least + 1.0);
    let scale = Scale { least, most };
    let each = names.len() as f64 * BAR + GAP;
    // The names take as many lines as they need.
    let head = 28.0 + 14.0 * (names.len().saturating_sub(1) / NAMES) as f64;
    let height = head + 42.0 + scenarios.len() as f64 * each;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        LEFT + WIDTH + 70.0
    );
    legend(&mut svg, names);
    grid(&mut svg, &scale, head, height);
    for (row, (scenario, values)) in scenarios.iter().enumerate() {
        let top = head + 4.0 + row as f64 * each;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{scenario}</text>",
            LEFT - 6.0,
            top + each / 2.0
        );
        for (n, value) in values.iter().enumerate() {
            bar(&mut svg, &scale, n, top + n as f64 * BAR, *value);
        }
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\" fill=\"#555\">CPU time of the broker, µs for each message (or connection), \
         less is better. {machine}</text>\n</svg>",
        height - 10.0
    );
    svg
}

/// A logarithmic axis between two powers of ten.
struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    /// Returns the x coordinate of a value.
    fn x(&self, value: f64) -> f64 {
        LEFT + WIDTH * ((value.max(0.001).log10() - self.least) / (self.most - self.least))
    }
}

/// Draws the brokers' names with their colours.
fn legend(svg: &mut String, names: &[&str]) {
    for (n, name) in names.iter().enumerate() {
        let (at, y) = (LEFT + 105.0 * (n % NAMES) as f64, 8.0 + 14.0 * (n / NAMES) as f64);
        let colour = COLOURS[n % COLOURS.len()];
        let _ = writeln!(
            svg,
            "<rect x=\"{at}\" y=\"{y}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{}\">{name}</text>",
            at + 14.0,
            y + 9.0
        );
    }
}

/// Draws a vertical line for each power of ten.
fn grid(svg: &mut String, scale: &Scale, head: f64, height: f64) {
    for power in scale.least as i32..=scale.most as i32 {
        let (value, at) = (10f64.powi(power), scale.x(10f64.powi(power)));
        let _ = writeln!(
            svg,
            "<line x1=\"{at}\" y1=\"{head}\" x2=\"{at}\" y2=\"{}\" stroke=\"#ddd\"/>\
             <text x=\"{at}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{value}</text>",
            height - 40.0,
            height - 28.0
        );
    }
}

/// Draws the bar of broker `n`, or a dash if the broker has no figure: the table says why.
fn bar(svg: &mut String, scale: &Scale, n: usize, y: f64, value: Option<f64>) {
    let Some(value) = value else {
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" font-size=\"8\" fill=\"#999\">–</text>",
            LEFT + 3.0,
            y + 7.0
        );
        return;
    };
    let end = scale.x(value).max(LEFT + 1.0);
    let colour = COLOURS[n % COLOURS.len()];
    let _ = writeln!(
        svg,
        "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\
         <text x=\"{:.1}\" y=\"{}\" font-size=\"8\">{}</text>",
        end - LEFT,
        BAR - 1.0,
        end + 3.0,
        y + 7.0,
        if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_many_brokers_has_a_name_and_a_bar_or_a_dash() {
        let names = ["a", "b", "c", "d", "e", "f"];
        let values = vec![Some(0.4), Some(6.0), Some(2.0), Some(9.0), None, Some(1.0)];
        let svg = bars(&names, &[("p2p", values)], "here");
        let (rects, dashes) = (svg.matches("<rect").count(), svg.matches(">–<").count());
        assert_eq!((rects, dashes), (1 + names.len() + 5, 1));
        names.iter().for_each(|name| assert!(svg.contains(&format!(">{name}</text>"))));
        // The sixth name begins a second line, and the rest moves down.
        assert!(svg.contains("y=\"22\"") && svg.contains("y1=\"42\""));
    }
}
