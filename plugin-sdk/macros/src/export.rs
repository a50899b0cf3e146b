//! `export_plugin!`: paths of bodies → the component's exports, in a guest; a check of the names everywhere.

use proc_macro2::TokenStream;
use quote::{ToTokens as _, quote, quote_spanned};
use syn::{Error, Path, Result, Token, parse::Parser as _, punctuated::Punctuated, spanned::Spanned as _};

pub(crate) fn expand(paths: TokenStream) -> TokenStream {
    write(paths).unwrap_or_else(|error| error.to_compile_error())
}

fn write(paths: TokenStream) -> Result<TokenStream> {
    let paths = Punctuated::<Path, Token![,]>::parse_terminated.parse2(paths).map_err(|error| {
        Error::new(error.span(), "export_plugin! takes the bodies' paths, parted by commas: `export_plugin!(add, transfer::bu)`")
    })?;
    let paths: Vec<_> = paths.into_iter().collect();
    if paths.is_empty() {
        return Err(Error::new(proc_macro2::Span::call_site(), "a plugin offers at least one body: `export_plugin!(add)`"));
    }
    let mut checks = Vec::new();
    for (i, later) in paths.iter().enumerate() {
        for earlier in &paths[..i] {
            let (a, b) = (words(earlier), words(later));
            if a == b {
                return Err(Error::new_spanned(later, format!("`{a}` is exported twice")));
            }
            let fault = format!("`{a}` and `{b}` have the same task name: give one of them another with #[task(name = \"…\")]");
            checks.push(quote_spanned! {later.span()=>
                assert!(!::taskhost_sdk::__private::same(<#earlier as ::taskhost_sdk::Task>::NAME, <#later as ::taskhost_sdk::Task>::NAME), #fault);
            });
        }
    }
    let entries = paths.iter().map(|path| quote_spanned!(path.span()=> ::taskhost_sdk::__private::Entry::of::<#path>()));

    Ok(quote! {
        const _: () = {
            // Outside a guest this is the only use of the bodies. Without it they would be dead code.
            const BODIES: &[::taskhost_sdk::__private::Entry] = &[#(#entries),*];
            #(#checks)*

            #[cfg(target_family = "wasm")]
            {
                use ::taskhost_sdk::__private::{bindings, export_component, exported};

                const VERSION: &str = match option_env!("TASKHOST_PLUGIN_VERSION") {
                    Some(version) => version,
                    None => env!("CARGO_PKG_VERSION"),
                };

                struct Component;

                impl exported::Guest for Component {
                    fn describe() -> exported::Description {
                        exported::describe(VERSION, env!("CARGO_PKG_DESCRIPTION"), BODIES)
                    }

                    fn run(name: ::std::string::String, args: ::std::string::String) -> ::std::result::Result<::std::string::String, exported::WitTaskError> {
                        exported::run(&name, &args, BODIES)
                    }
                }

                export_component!(Component with_types_in bindings);
            }
            #[cfg(not(target_family = "wasm"))]
            {
                let _ = BODIES;
            }
        };
    })
}

fn words(path: &Path) -> String {
    path.to_token_stream().to_string().replace(' ', "")
}
