//! `#[task]`: a function → the same function, and a type that implements `Task`.

use proc_macro2::TokenStream;
use quote::{ToTokens as _, format_ident, quote, quote_spanned};
use syn::{
    Attribute, Error, Expr, ExprLit, FnArg, Ident, ItemFn, Lit, LitInt, LitStr, Meta, Pat, Result, ReturnType, Token, Type,
    ext::IdentExt as _,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
    spanned::Spanned as _,
};

use crate::text;

pub(crate) fn expand(attribute: TokenStream, item: &TokenStream) -> TokenStream {
    let Ok(mut function) = syn::parse2::<ItemFn>(item.clone()) else {
        let error = Error::new_spanned(item, "#[task] goes on a function with a body, `fn name(…) -> TaskResult<…> { … }`");
        let error = error.to_compile_error();
        return quote!(#error #item);
    };
    // An error keeps the function, so that its callers compile.
    let task = write(attribute, &function).unwrap_or_else(|error| error.to_compile_error());
    // A body owns its arguments, may fail and may wait, also if this one does none of it.
    function.attrs.push(syn::parse_quote!(#[allow(clippy::needless_pass_by_value, clippy::unnecessary_wraps, clippy::unused_async)]));
    quote!(#function #task)
}

fn write(attribute: TokenStream, function: &ItemFn) -> Result<TokenStream> {
    let settings: Settings = syn::parse2(attribute)?;
    check_signature(function)?;
    let parameters = parameters(function)?;
    let ReturnType::Type(_, returns) = &function.sig.output else {
        let place = function.sig.paren_token.span.close();
        return Err(Error::new(place, "a body says what it returns: `-> TaskResult<T>`, or `-> TaskResult<()>` if there is no result"));
    };

    let ident = &function.sig.ident;
    let visibility = &function.vis;
    let name = if let Some(name) = &settings.name {
        name.clone()
    } else {
        let name = ident.unraw().to_string();
        text::check_task_name(&name).map_err(|text| Error::new(ident.span(), format!("{text}; or give another: #[task(name = \"…\")]")))?;
        LitStr::new(&name, ident.span())
    };
    let doc = doc(&function.attrs);
    let hints = settings.hints.iter().map(|(key, value)| quote!((#key, #value)));

    let names = parameters.iter().map(|p| p.name.unraw().to_string());
    let types = parameters.iter().map(|p| &p.ty);
    let indices = 0..parameters.len();
    let locals: Vec<_> = (0..parameters.len()).map(|i| format_ident!("argument_{i}")).collect();
    let gets = parameters.iter().zip(indices).zip(&locals).map(|((p, index), local)| {
        let ty = &p.ty;
        quote_spanned!(ty.span()=> let #local: #ty = arguments.get::<#ty>(#index)?;)
    });
    let described = types.zip(names).map(|(ty, name)| quote_spanned!(ty.span()=> ::taskhost_sdk::Parameter::of::<#ty>(#name)));
    let call = quote!(#ident(#(#locals),*));
    let call = if function.sig.asyncness.is_some() { quote!(::taskhost_sdk::__private::block_on(#call)) } else { call };
    let finish = quote_spanned!(returns.span()=> ::taskhost_sdk::__private::finish::<#returns>(#call));
    let schema = quote_spanned!(returns.span()=> <#returns as ::taskhost_sdk::__private::BodyResult>::schema());
    let arguments = if parameters.is_empty() { quote!(_) } else { quote!(arguments) };

    Ok(quote! {
        #[doc(hidden)]
        #[allow(non_camel_case_types, missing_debug_implementations, unreachable_pub, dead_code)]
        #visibility struct #ident {}

        #[automatically_derived]
        impl ::taskhost_sdk::Task for #ident {
            const NAME: &'static str = #name;
            const DOC: &'static str = #doc;
            const PARAMETERS: &'static [::taskhost_sdk::Parameter] = &[#(#described),*];
            const HINTS: &'static [(&'static str, &'static str)] = &[#(#hints),*];

            fn returns() -> ::std::string::String {
                #schema
            }

            fn run(args: &str) -> ::taskhost_sdk::TaskResult<::std::string::String> {
                let #arguments = ::taskhost_sdk::__private::Arguments::parse(args, Self::PARAMETERS)?;
                #(#gets)*
                #finish
            }
        }
    })
}

fn check_signature(function: &ItemFn) -> Result<()> {
    let sig = &function.sig;
    if let Some(constness) = &sig.constness {
        return Err(Error::new(constness.span, "a body is a plain or async function: leave out `const`"));
    }
    if let Some(unsafety) = &sig.unsafety {
        return Err(Error::new(unsafety.span, "a body is safe to call: leave out `unsafe`"));
    }
    if let Some(abi) = &sig.abi {
        return Err(Error::new_spanned(abi, "a body is a plain or async function: leave out `extern`"));
    }
    if !sig.generics.params.is_empty() {
        return Err(Error::new_spanned(&sig.generics, "a body has no generics: the host needs to know each parameter's type"));
    }
    if let Some(clause) = &sig.generics.where_clause {
        return Err(Error::new_spanned(clause, "a body has no generics: the host needs to know each parameter's type"));
    }
    if let Some(variadic) = &sig.variadic {
        return Err(Error::new_spanned(variadic, "a body takes a fixed number of parameters: take a `Vec` for the rest"));
    }
    Ok(())
}

struct Parameter {
    name: Ident,
    ty: Type,
}

fn parameters(function: &ItemFn) -> Result<Vec<Parameter>> {
    function.sig.inputs.iter().map(parameter).collect()
}

fn parameter(input: &FnArg) -> Result<Parameter> {
    let typed = match input {
        FnArg::Receiver(receiver) => {
            return Err(Error::new_spanned(
                receiver,
                "a body has no `self`: every attempt is a fresh instance; keep what shall stay in `kv`",
            ));
        }
        FnArg::Typed(typed) => typed,
    };
    let Pat::Ident(pattern) = &*typed.pat else {
        return Err(Error::new_spanned(&typed.pat, "a parameter needs a name, which error messages and help show: take it apart inside"));
    };
    match &*typed.ty {
        Type::Reference(reference) => {
            let owned = match &*reference.elem {
                Type::Path(path) if path.path.is_ident("str") => "String".into(),
                Type::Slice(slice) => format!("Vec<{}>", slice.elem.to_token_stream()),
                other => other.to_token_stream().to_string(),
            };
            Err(Error::new_spanned(
                reference,
                format!("parameter `{}` is borrowed, but its value is made from JSON for this call: take `{owned}`", pattern.ident),
            ))
        }
        Type::ImplTrait(ty) => Err(Error::new_spanned(ty, "a body has no generics: the host needs to know each parameter's type")),
        ty => Ok(Parameter { name: pattern.ident.clone(), ty: ty.clone() }),
    }
}

/// The doc comment, without the space after `///`.
fn doc(attributes: &[Attribute]) -> String {
    let mut lines = Vec::new();
    for attribute in attributes {
        if let Meta::NameValue(meta) = &attribute.meta
            && meta.path.is_ident("doc")
            && let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = &meta.value
        {
            let text = text.value();
            lines.extend(text.split('\n').map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end().to_string()));
        }
    }
    lines.join("\n").trim().to_string()
}

#[derive(Default)]
struct Settings {
    name: Option<LitStr>,
    hints: Vec<(String, String)>,
}

impl Parse for Settings {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut settings = Self::default();
        let mut seen: Vec<String> = Vec::new();
        for Setting { key, value } in Punctuated::<Setting, Token![,]>::parse_terminated(input)? {
            let word = key.to_string();
            // A task may name several grants of the policy.
            if seen.contains(&word) && !text::is_wish(&word) {
                return Err(Error::new(key.span(), format!("`{word}` is given twice")));
            }
            let check = match word.as_str() {
                "name" | "enqueue" => text::check_task_name,
                "timeout" => text::check_duration,
                "queue" => text::check_queue_name,
                "cron" => text::check_cron,
                "http" => text::check_origin,
                "env" => text::check_variable,
                "retries" => {
                    let Lit::Int(number) = &value else { return Err(Error::new_spanned(&value, "`retries` is a number: `retries = 5`")) };
                    settings.hints.push((word.clone(), whole(number)?));
                    seen.push(word);
                    continue;
                }
                _ => {
                    return Err(Error::new(
                        key.span(),
                        format!(
                            "unknown key `{word}`: there are `name`, `timeout`, `retries`, `queue`, `cron`, `http`, `env` and `enqueue`"
                        ),
                    ));
                }
            };
            let Lit::Str(text) = &value else { return Err(Error::new_spanned(&value, format!("`{word}` is a text: `{word} = \"…\"`"))) };
            check(&text.value()).map_err(|fault| Error::new(text.span(), fault))?;
            if word == "name" {
                settings.name = Some(text.clone());
            } else {
                settings.hints.push((word.clone(), text.value().trim().into()));
            }
            seen.push(word);
        }
        Ok(settings)
    }
}

fn whole(number: &LitInt) -> Result<String> {
    let value: u32 = number.base10_parse().map_err(|_| Error::new(number.span(), "`retries` is a whole number from 0 to 4294967295"))?;
    Ok(value.to_string())
}

struct Setting {
    key: Ident,
    value: Lit,
}

impl Parse for Setting {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let key = input.call(Ident::parse_any)?;
        if !input.peek(Token![=]) {
            return Err(Error::new(
                key.span(),
                format!(
                    "`{key}` needs a value: `{key} = …`; keys are `name`, `timeout`, `retries`, `queue`, `cron`, `http`, `env` and `enqueue`"
                ),
            ));
        }
        input.parse::<Token![=]>()?;
        Ok(Self { key, value: input.parse()? })
    }
}
