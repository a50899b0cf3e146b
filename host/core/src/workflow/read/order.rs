//! Puts the steps into an order in which each comes after all that it needs, or finds the circle.

use super::{Place, Result};
use crate::workflow::{
    arguments::{Reference, Source, Template},
    plan::{Kind, Step},
};

/// The steps, each after all that it needs, with their new places in what refers to them.
pub(super) fn in_order(mut steps: Vec<Step>, at: &Place) -> Result<Vec<Step>> {
    let mut order: Vec<usize> = Vec::new();
    let mut is_placed = vec![false; steps.len()];
    while order.len() < steps.len() {
        let before = order.len();
        for place in 0..steps.len() {
            if !is_placed[place] && steps[place].needs.iter().all(|need| is_placed[*need]) {
                is_placed[place] = true;
                order.push(place);
            }
        }
        if order.len() == before {
            return at.fail(format!("the steps wait for each other in a circle: {}", circle(&steps, &is_placed).join(" → ")));
        }
    }
    let mut new_places = vec![0; steps.len()];
    order.iter().enumerate().for_each(|(new, old)| new_places[*old] = new);
    let mut ordered: Vec<Option<Step>> = steps.drain(..).map(Some).collect();
    let mut result: Vec<Step> = order.iter().filter_map(|old| ordered[*old].take()).collect();
    for place in 0..result.len() {
        let step = &mut result[place];
        step.needs.iter_mut().for_each(|need| *need = new_places[*need]);
        step.needs.sort_unstable();
        let renumber = |reference: &mut Reference| match &mut reference.of {
            Source::Result(step) | Source::Failure(step) => *step = new_places[*step],
            _ => {}
        };
        each_reference(step, renumber);
        let is_for_failure = result[place].needs.iter().any(|need| result[*need].is_for_failure);
        result[place].is_for_failure |= is_for_failure;
    }
    Ok(result)
}

/// The names of a circle, the first one again at its end.
fn circle(steps: &[Step], is_placed: &[bool]) -> Vec<String> {
    let mut path: Vec<usize> = Vec::new();
    let mut at = is_placed.iter().position(|placed| !placed).unwrap_or(0);
    while !path.contains(&at) {
        path.push(at);
        at = steps[at].needs.iter().copied().find(|need| !is_placed[*need]).unwrap_or(at);
    }
    let from = path.iter().position(|step| *step == at).unwrap_or(0);
    path.drain(..from);
    // An arrow leads from what is needed to what needs it.
    path.reverse();
    path.push(path[0]);
    path.into_iter().map(|step| format!("`{}`", steps[step].name)).collect()
}

fn each_reference(step: &mut Step, mut visit: impl FnMut(&mut Reference)) {
    fn of_template(template: &mut Template, visit: &mut impl FnMut(&mut Reference)) {
        match template {
            Template::Plain(_) => {}
            Template::Array(parts) => parts.iter_mut().for_each(|part| of_template(part, visit)),
            Template::Object(parts) => parts.iter_mut().for_each(|(_, part)| of_template(part, visit)),
            Template::Reference(reference) => visit(reference),
        }
    }
    match &mut step.kind {
        Kind::Task(call) => of_template(&mut call.args, &mut visit),
        Kind::Map { over, call, .. } => {
            visit(over);
            of_template(&mut call.args, &mut visit);
        }
        Kind::Group { calls, .. } => calls.iter_mut().for_each(|call| of_template(&mut call.args, &mut visit)),
        Kind::Wait(_) => {}
        Kind::Flow { input, .. } => of_template(input, &mut visit),
    }
    if let Some(undo) = &mut step.undo {
        of_template(&mut undo.args, &mut visit);
    }
    if let Some(when) = &mut step.when {
        visit(&mut when.value);
    }
}
