// SPDX-License-Identifier: Apache-2.0
//! Plots figures that were measured along a parameter, one picture for each.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow};
use plotters::prelude::{
    BLACK, ChartBuilder, Circle, Color, DrawingAreaErrorKind, IntoDrawingArea, IntoLogRange, LineSeries,
    Palette, Palette99, PathElement, SVGBackend, SeriesLabelPosition, ShapeStyle, WHITE,
};

use super::{
    Figure, Target,
    figure::{Relation, Spread},
};

/// Minimum number of values that make a curve.
const LEAST_POINTS: usize = 3;
/// Width and height, pixels.
const SIZE: (u32, u32) = (900, 520);

/// One picture.
#[derive(Debug, PartialEq)]
struct Picture {
    title: String,
    parameter: String,
    /// Label of the vertical axis.
    axis: String,
    /// Points by the other parameters.
    curves: BTreeMap<String, Vec<(f64, Spread)>>,
    limit: Option<f64>,
}

/// Draws every picture into a folder, and returns the files.
///
/// # Errors
/// A file cannot be written.
pub fn draw_all(figures: &[Figure], folder: &Path) -> Result<Vec<PathBuf>> {
    let draw_one = |picture: Picture| {
        let name = format!("{}-{}.svg", picture.title, picture.parameter);
        let path = folder.join(name.replace(['/', ' ', ','], "-"));
        draw(&picture, &path).map_err(|error| anyhow!("drawing {}: {error}", path.display()))?;
        Ok(path)
    };
    pictures(figures).into_iter().map(draw_one).collect()
}

/// A figure at a value of the picture's parameter.
struct Point<'a> {
    value: f64,
    figure: &'a Figure,
}

/// Returns a picture for each figure and each of its parameters with enough numeric values.
fn pictures(figures: &[Figure]) -> Vec<Picture> {
    let mut along: BTreeMap<[String; 2], Vec<Point<'_>>> = BTreeMap::new();
    for figure in figures {
        for (parameter, value) in &figure.parameters {
            if let Ok(value) = value.parse() {
                let title = format!("{}/{}", figure.group, figure.name);
                let points = along.entry([title, parameter.clone()]).or_default();
                points.push(Point { value, figure });
            }
        }
    }
    let pictures = along.into_iter();
    pictures
        .filter_map(|([title, parameter], points)| picture(title, parameter, &points))
        .collect()
}

fn picture(title: String, parameter: String, points: &[Point<'_>]) -> Option<Picture> {
    let values: BTreeSet<u64> = points.iter().map(|point| point.value.to_bits()).collect();
    if values.len() < LEAST_POINTS {
        return None;
    }
    // A figure with a baseline decides about the axis; one without is a baseline.
    let related = points.iter().find(|point| point.figure.baseline.is_some());
    let first = related.or(points.first())?.figure;
    // A limit of the samples themselves is drawn over them.
    let plain = matches!(first.target, Some(Target::AtMost(_)));
    let axis = match first.baseline.as_ref().filter(|_| !plain) {
        None => first.unit.clone(),
        Some(baseline) if baseline.relation == Relation::Difference => {
            format!("{} above {}", first.unit, baseline.name)
        }
        Some(baseline) => format!("{} by that of {}", first.unit, baseline.name),
    };
    let limit = first.target.map(|target| match target {
        Target::AtMost(limit)
        | Target::MoreByAtMost(limit)
        | Target::RatioAtMost(limit)
        | Target::RatioAtLeast(limit) => limit,
    });
    let mut curves: BTreeMap<String, Vec<(f64, Spread)>> = BTreeMap::new();
    for Point { value, figure } in points {
        let others = figure.parameters.iter().filter(|(name, _)| **name != parameter);
        let others: Vec<&str> = others.map(|(_, value)| value.as_str()).collect();
        let spread = if plain {
            figure.spread()
        } else {
            figure.related().filter(|_| figure.relation() == first.relation())
        };
        if let Some(spread) = spread {
            let curve = curves.entry(others.join(" ")).or_default();
            curve.push((*value, spread));
        }
    }
    curves
        .values_mut()
        .for_each(|points| points.sort_by(|one, other| one.0.total_cmp(&other.0)));
    curves.retain(|_, points| points.len() >= LEAST_POINTS);
    (!curves.is_empty()).then_some(Picture {
        title,
        parameter,
        axis,
        curves,
        limit,
    })
}

fn draw(picture: &Picture, path: &Path) -> Result<(), DrawingAreaErrorKind<io::Error>> {
    let points = || picture.curves.values().flatten();
    let least = points()
        .map(|(value, _)| *value)
        .fold(f64::INFINITY, f64::min)
        .max(1.0);
    let most = points().map(|(value, _)| *value).fold(1.0, f64::max);
    let top = points()
        .map(|(_, spread)| spread.max)
        .chain(picture.limit)
        .fold(0.0, f64::max)
        * 1.1;
    let bottom = points().map(|(_, spread)| spread.min * 1.1).fold(0.0, f64::min);

    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(&picture.title, ("sans-serif", 20))
        .margin(14)
        .margin_right(30)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d((least..most).log_scale(), bottom..top)?;
    chart
        .configure_mesh()
        .x_desc(&picture.parameter)
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_desc(&picture.axis)
        .draw()?;
    for (index, (name, points)) in picture.curves.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let style = ShapeStyle::from(&color).stroke_width(2);
        let curve = points
            .iter()
            .map(|(value, spread)| (value.max(1.0), spread.median));
        chart
            .draw_series(LineSeries::new(curve, style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        for (value, spread) in points {
            let value = value.max(1.0);
            let range = PathElement::new([(value, spread.min), (value, spread.max)], color);
            chart.draw_series([range])?;
            chart.draw_series([Circle::new((value, spread.median), 3, color.filled())])?;
        }
    }
    if let Some(limit) = picture.limit {
        let style = ShapeStyle::from(&BLACK).stroke_width(1);
        chart
            .draw_series([PathElement::new([(least, limit), (most, limit)], style)])?
            .label("target")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    area.present()
}

#[cfg(test)]
mod tests {
    use super::{Figure, draw_all, pictures};
    use crate::Target;

    fn figures() -> Vec<Figure> {
        let at = |peers: u32, hook: &str| {
            Figure::new("packet", "established", "ns", vec![50.0, 60.0])
                .above("empty program", vec![10.0, 10.0])
                .reaches(Target::MoreByAtMost(60.0))
                .at("peers", peers)
                .at("hook", hook)
        };
        [1000, 10, 100]
            .into_iter()
            .flat_map(|peers| [at(peers, "from_pod"), at(peers, "to_pod")])
            .collect()
    }

    #[test]
    fn a_picture_has_a_curve_for_what_else_was_given() {
        let pictures = pictures(&figures());
        assert_eq!(pictures.len(), 1);
        let picture = &pictures[0];
        assert_eq!(
            (&*picture.title, &*picture.parameter),
            ("packet/established", "peers")
        );
        assert_eq!(picture.axis, "ns above empty program");
        assert_eq!(picture.limit, Some(60.0));
        let names: Vec<&String> = picture.curves.keys().collect();
        assert_eq!(names, ["from_pod", "to_pod"]);
        let values: Vec<f64> = picture.curves["to_pod"].iter().map(|(value, _)| *value).collect();
        assert_eq!(values, [10.0, 100.0, 1000.0]);
        assert_eq!(picture.curves["to_pod"][0].1.median, 45.0);
    }

    #[test]
    fn a_limit_of_the_numbers_themselves_is_drawn_over_them() {
        let at = |pods: u32, value: f64| {
            let figure = Figure::new("agent", "memory", "MB", vec![value]).at("pods", pods);
            figure
                .against("the smallest", vec![10.0])
                .reaches(Target::AtMost(150.0))
        };
        let figures = [at(100, 10.0), at(1000, 20.0), at(10_000, 90.0)];
        let picture = &pictures(&figures)[0];
        assert_eq!((&*picture.axis, picture.limit), ("MB", Some(150.0)));
        let values: Vec<f64> = picture.curves[""]
            .iter()
            .map(|(_, spread)| spread.median)
            .collect();
        assert_eq!(values, [10.0, 20.0, 90.0]);
    }

    #[test]
    fn a_picture_is_a_file_with_its_words_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let files = draw_all(&figures(), folder.path()).unwrap();
        assert_eq!(files, [folder.path().join("packet-established-peers.svg")]);
        let text = std::fs::read_to_string(&files[0]).unwrap();
        for word in ["packet/established", "peers", "from_pod", "target"] {
            assert!(text.contains(word), "{word} is not in the picture");
        }
    }
}
