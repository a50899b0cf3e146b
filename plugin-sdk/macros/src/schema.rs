//! `#[derive(Schema)]`: a struct, or an enum without data → its JSON Schema, as serde's derive would write it.
//!
//! Invariant: a serde attribute whose effect the schema would not show is a compile error at its place.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{
    Attribute, Data, DataEnum, DataStruct, DeriveInput, Error, Field, Fields, GenericParam, LitStr, Result, Token, ext::IdentExt as _,
    meta::ParseNestedMeta, spanned::Spanned as _,
};

pub(crate) fn expand(item: TokenStream) -> TokenStream {
    syn::parse2(item).and_then(|item| write(&item)).unwrap_or_else(|error| error.to_compile_error())
}

fn write(item: &DeriveInput) -> Result<TokenStream> {
    let container = Serde::of(&item.attrs, Place::Container)?;
    let (schema, expects) = match &item.data {
        Data::Struct(data) => structure(item, data, &container)?,
        Data::Enum(data) => enumeration(item, data, &container)?,
        Data::Union(data) => return Err(Error::new(data.union_token.span, "serde knows no unions: take a struct")),
    };
    let name = &item.ident;
    let mut generics = item.generics.clone();
    for parameter in &mut generics.params {
        match parameter {
            GenericParam::Type(ty) => ty.bounds.push(syn::parse_quote!(::taskhost_sdk::Schema)),
            GenericParam::Lifetime(lifetime) => {
                return Err(Error::new_spanned(lifetime, "a body's values are owned: take `String` instead of `&str`"));
            }
            GenericParam::Const(_) => {}
        }
    }
    let (impls, types, clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impls ::taskhost_sdk::Schema for #name #types #clause {
            fn write_schema(writer: &mut ::taskhost_sdk::SchemaWriter) {
                #schema
            }
            fn expects() -> ::std::string::String {
                #expects
            }
        }
    })
}

fn structure(item: &DeriveInput, data: &DataStruct, container: &Serde) -> Result<(TokenStream, TokenStream)> {
    match &data.fields {
        Fields::Named(fields) => {
            let mut entries = Vec::new();
            let mut needed = Vec::new();
            for field in &fields.named {
                let serde = Serde::of(&field.attrs, Place::Field)?;
                if serde.skip {
                    continue;
                }
                let Some(ident) = &field.ident else { continue };
                let name = match &serde.rename {
                    Some(name) => name.value(),
                    None => container.rename_all.unwrap_or(Case::AsIs).of_field(&ident.unraw().to_string()),
                };
                let ty = &field.ty;
                let defaults = serde.default || container.default;
                if !defaults {
                    needed.push(format!("`{name}`"));
                }
                let name = escaped(&name);
                entries.push(quote_spanned! {ty.span()=>
                    (#name, !#defaults && !<#ty as ::taskhost_sdk::Schema>::OPTIONAL, <#ty as ::taskhost_sdk::Schema>::write_schema)
                });
            }
            let expects = if needed.is_empty() { "an object".into() } else { format!("an object with {}", needed.join(", ")) };
            Ok((quote!(writer.object::<Self>(&[#(#entries),*]);), quote!(#expects.into())))
        }
        Fields::Unnamed(fields) => {
            let types: Vec<_> = fields.unnamed.iter().map(|field| unadorned(field).map(|()| &field.ty)).collect::<Result<_>>()?;
            if let [ty] = types[..] {
                // serde writes a struct of one unnamed field as that field.
                return Ok((
                    quote!(<#ty as ::taskhost_sdk::Schema>::write_schema(writer);),
                    quote!(<#ty as ::taskhost_sdk::Schema>::expects()),
                ));
            }
            let expects = format!("a list of exactly {} items", types.len());
            Ok((quote!(writer.tuple(&[#(<#types as ::taskhost_sdk::Schema>::write_schema),*]);), quote!(#expects.into())))
        }
        Fields::Unit => Err(Error::new_spanned(&item.ident, "a struct without fields is `null` in JSON: take `()`")),
    }
}

fn enumeration(item: &DeriveInput, data: &DataEnum, container: &Serde) -> Result<(TokenStream, TokenStream)> {
    if container.default {
        return Err(Error::new_spanned(&item.ident, "serde's `default` on an enum says nothing of its JSON: take it off"));
    }
    let mut names = Vec::new();
    for variant in &data.variants {
        let serde = Serde::of(&variant.attrs, Place::Variant)?;
        if serde.skip {
            continue;
        }
        if !matches!(variant.fields, Fields::Unit) {
            return Err(Error::new_spanned(
                &variant.fields,
                "Schema is derived for enums without data: take a struct with `Option`s, or implement Schema",
            ));
        }
        names.push(match &serde.rename {
            Some(name) => name.value(),
            None => container.rename_all.unwrap_or(Case::AsIs).of_variant(&variant.ident.unraw().to_string()),
        });
    }
    if names.is_empty() {
        return Err(Error::new_spanned(&item.ident, "an enum without a variant has no value"));
    }
    let quoted: Vec<_> = names.iter().map(|name| format!("\"{}\"", escaped(name))).collect();
    let schema = format!("{{\"type\":\"string\",\"enum\":[{}]}}", quoted.join(","));
    let expects = format!("one of {}", quoted.join(", "));
    Ok((quote!(writer.raw(#schema);), quote!(#expects.into())))
}

/// The attributes that we read change nothing at a field without a name.
fn unadorned(field: &Field) -> Result<()> {
    match field.attrs.iter().find(|attribute| attribute.path().is_ident("serde")) {
        Some(attribute) => Err(Error::new_spanned(attribute, "Schema reads no serde attributes on fields without names")),
        None => Ok(()),
    }
}

/// The text between the quotes of a JSON string.
fn escaped(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if u32::from(c) < 0x20 => text.extend(format!("\\u{:04x}", u32::from(c)).chars()),
            c => text.push(c),
        }
    }
    text
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Container,
    Field,
    Variant,
}

/// The serde attributes of a type, a field or a variant.
#[derive(Default)]
struct Serde {
    rename: Option<LitStr>,
    rename_all: Option<Case>,
    default: bool,
    skip: bool,
}

impl Serde {
    fn of(attributes: &[Attribute], place: Place) -> Result<Self> {
        let mut serde = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
            attribute.parse_nested_meta(|meta| serde.read(&meta, place))?;
        }
        Ok(serde)
    }

    fn read(&mut self, meta: &ParseNestedMeta<'_>, place: Place) -> Result<()> {
        let is = |word| meta.path.is_ident(word);
        if is("rename") && place != Place::Container && meta.input.peek(Token![=]) {
            self.rename = Some(meta.value()?.parse()?);
        } else if is("rename_all") && place == Place::Container && meta.input.peek(Token![=]) {
            let text: LitStr = meta.value()?.parse()?;
            self.rename_all = Some(Case::named(&text.value()).ok_or_else(|| Error::new(text.span(), "serde knows no such case"))?);
        } else if is("default") && place != Place::Variant {
            if meta.input.peek(Token![=]) {
                meta.value()?.parse::<LitStr>()?;
            }
            self.default = true;
        } else if is("skip") && place != Place::Container {
            self.skip = true;
        } else {
            return Err(meta.error("Schema can't show what this serde attribute does: it reads `rename`, `rename_all`, `default` and `skip`; implement Schema for the type instead"));
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Case {
    AsIs,
    Lower,
    Upper,
    Pascal,
    Camel,
    Snake,
    ScreamingSnake,
    Kebab,
    ScreamingKebab,
}

impl Case {
    fn named(text: &str) -> Option<Self> {
        Some(match text {
            "lowercase" => Self::Lower,
            "UPPERCASE" => Self::Upper,
            "PascalCase" => Self::Pascal,
            "camelCase" => Self::Camel,
            "snake_case" => Self::Snake,
            "SCREAMING_SNAKE_CASE" => Self::ScreamingSnake,
            "kebab-case" => Self::Kebab,
            "SCREAMING-KEBAB-CASE" => Self::ScreamingKebab,
            _ => return None,
        })
    }

    /// serde takes a field's name for snake_case.
    fn of_field(self, name: &str) -> String {
        let pascal = || -> String { name.split('_').map(capitalised).collect() };
        match self {
            Self::AsIs | Self::Lower | Self::Snake => name.into(),
            Self::Upper | Self::ScreamingSnake => name.to_ascii_uppercase(),
            Self::Pascal => pascal(),
            Self::Camel => uncapitalised(&pascal()),
            Self::Kebab => name.replace('_', "-"),
            Self::ScreamingKebab => name.to_ascii_uppercase().replace('_', "-"),
        }
    }

    /// serde takes a variant's name for PascalCase.
    fn of_variant(self, name: &str) -> String {
        let snake = || {
            let mut text = String::new();
            for (i, c) in name.char_indices() {
                if i > 0 && c.is_uppercase() {
                    text.push('_');
                }
                text.push(c.to_ascii_lowercase());
            }
            text
        };
        match self {
            Self::AsIs | Self::Pascal => name.into(),
            Self::Lower => name.to_ascii_lowercase(),
            Self::Upper => name.to_ascii_uppercase(),
            Self::Camel => uncapitalised(name),
            Self::Snake => snake(),
            Self::ScreamingSnake => snake().to_ascii_uppercase(),
            Self::Kebab => snake().replace('_', "-"),
            Self::ScreamingKebab => snake().to_ascii_uppercase().replace('_', "-"),
        }
    }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

fn uncapitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_lowercase().to_string() + letters.as_str())
}
