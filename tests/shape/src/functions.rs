//! How long functions are.

use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::spanned::Spanned;
use syn::visit::Visit;

use crate::{is_for_tests, parse, rust_files};

/// A function, and how long it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// From its first line to its last, signature and comments within among them.
    pub lines: usize,
    /// Words, signs and brackets.
    pub tokens: usize,
}

/// The functions of a crate whose source is in this folder; those of tests do not count.
pub fn functions(source: &Path) -> Vec<Function> {
    let mut reader = Reader(Vec::new());
    for file in rust_files(source) {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        if name != "tests" && !name.ends_with("_tests") {
            reader.visit_file(&parse(&file));
        }
    }
    reader.0
}

struct Reader(Vec<Function>);

impl Reader {
    fn note(&mut self, signature: &syn::Signature, whole: &impl ToTokens) {
        let (begin, end) = (signature.span().start(), whole.span().end());
        let tokens = count(whole.to_token_stream());
        self.0.push(Function {
            name: signature.ident.to_string(),
            lines: end.line - begin.line + 1,
            tokens,
        });
    }
}

/// Words and signs; a pair of brackets is two.
fn count(stream: TokenStream) -> usize {
    let one = |token| match token {
        TokenTree::Group(group) => 2 + count(group.stream()),
        _ => 1,
    };
    stream.into_iter().map(one).sum()
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_for_tests(&module.attrs) {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if !is_for_tests(&function.attrs) {
            self.note(&function.sig, &Bare(&function.sig, &function.block));
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.note(&function.sig, &Bare(&function.sig, &function.block));
    }
}

/// A function without its attributes and its documentation.
struct Bare<'a>(&'a syn::Signature, &'a syn::Block);

impl ToTokens for Bare<'_> {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        self.0.to_tokens(tokens);
        self.1.to_tokens(tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_has_its_lines_and_its_tokens() {
        let file = syn::parse_file(
            "/// A.\nfn a(x: u8) -> u8 {\n    x + 1\n}\n#[cfg(test)]\nmod tests { fn b() {} }\nimpl A { fn c() {} }",
        )
        .unwrap();
        let mut reader = Reader(Vec::new());
        reader.visit_file(&file);
        // fn a ( x : u8 ) -> u8 { x + 1 }: an arrow is two signs.
        let a = Function {
            name: "a".into(),
            lines: 3,
            tokens: 15,
        };
        let c = Function {
            name: "c".into(),
            lines: 1,
            tokens: 6,
        };
        assert_eq!(reader.0, [a, c]);
    }
}
