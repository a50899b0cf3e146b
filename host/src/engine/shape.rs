//! Counts the instances that a component would unfold to, before anything unfolds it.
//!
//! A component may contain components and instantiate each any number of times. Forty levels of two are a kilobyte of file and 2^40
//! instances for the compiler, which flattens them all. One pass over the sections counts the instances.
//!
//! Invariant: the count is never too small. A component can only name components that were defined before it, nested ones included.
//! Components as imports are refused.

use wasmparser::{ComponentImport, ComponentInstance, ComponentTypeRef, Encoding, Instance, Parser, Payload};

/// The most instances of one component. Python has about fifteen, composed components a multiple of that.
const INSTANCES: u64 = 1000;
/// The deepest nesting of components.
const DEPTH: usize = 32;

/// The component or core module that is being read. Core modules do not count.
struct Scope {
    is_component: bool,
    /// Core modules and components that it instantiates.
    modules: u64,
    components: u64,
}

/// Refuses components that no honest tool builds. The compiler finds other mistakes.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let mut open: Vec<Scope> = Vec::new();
    // The instances of the largest component so far.
    let mut most = 0_u64;
    for payload in Parser::new(0).parse_all(bytes) {
        let Ok(payload) = payload else { return Ok(()) };
        match payload {
            Payload::Version { encoding, .. } => {
                open.push(Scope { is_component: encoding == Encoding::Component, modules: 0, components: 0 });
                if open.len() > DEPTH {
                    return Err(format!("holds components within components, more than {DEPTH} deep: build it as one program"));
                }
            }
            Payload::InstanceSection(section) => {
                let made = section.into_iter().flatten().filter(|one| matches!(one, Instance::Instantiate { .. })).count();
                if let Some(scope) = open.last_mut() {
                    scope.modules = scope.modules.saturating_add(made as u64);
                }
            }
            Payload::ComponentInstanceSection(section) => {
                let made = section.into_iter().flatten().filter(|one| matches!(one, ComponentInstance::Instantiate { .. })).count();
                if let Some(scope) = open.last_mut() {
                    scope.components = scope.components.saturating_add(made as u64);
                }
            }
            Payload::ComponentImportSection(section) if section.clone().into_iter().flatten().any(|import| is_component(&import)) => {
                return Err("imports a component, which nobody would hand to it: build it as one program".into());
            }
            Payload::End(_) => {
                let Some(scope) = open.pop().filter(|scope| scope.is_component) else { continue };
                let instances = 1_u64.saturating_add(scope.modules).saturating_add(scope.components.saturating_mul(most));
                most = most.max(instances);
                if most > INSTANCES {
                    return Err(format!("would unfold to more than {INSTANCES} instances: build it as one program"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_component(import: &ComponentImport<'_>) -> bool {
    matches!(import.ty, ComponentTypeRef::Component(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<(), String> {
        check(&wat::parse_str(text).unwrap())
    }

    /// `levels` of components, each of which holds the one below `times` times.
    fn unfolding(levels: usize, times: usize) -> String {
        let leaf = "(core module $m) (core instance (instantiate $m))".to_owned();
        let inner = (0..levels).fold(leaf, |inner, _| format!("(component $c {inner}) {}", "(instance (instantiate $c))".repeat(times)));
        format!("(component {inner})")
    }

    #[test]
    fn what_unfolds_is_counted_before_it_does() {
        assert_eq!(checked(&unfolding(3, 3)), Ok(()));
        assert_eq!(checked(&unfolding(20, 1)), Ok(()));
        assert!(checked(&unfolding(20, 2)).unwrap_err().contains("more than 1000 instances"));
        assert!(checked(&unfolding(40, 1)).unwrap_err().contains("more than 32 deep"));
        // Side by side, each naming the one before it in the same parent.
        let chain = (1..30).fold("(component $c0 (core module $m) (core instance (instantiate $m)))".to_owned(), |chain, n| {
            let below = n - 1;
            format!(
                "{chain} (component $c{n} (alias outer 1 $c{below} (component $b)) (instance (instantiate $b)) (instance (instantiate $b)))"
            )
        });
        assert!(checked(&format!("(component {chain} (instance (instantiate $c29)))")).unwrap_err().contains("instances"));
        assert!(checked("(component (component (import \"c\" (component $c)) (instance (instantiate $c))))").is_err());
    }

    #[test]
    fn what_is_broken_is_left_to_the_compiler() {
        assert_eq!(check(b""), Ok(()));
        assert_eq!(check(b"\0asm\x0d\0\x01\0\xff\xff"), Ok(()));
    }
}
