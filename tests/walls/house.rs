//! The sources as a house: which file names what of which other file. Tokens are enough for that: a
//! comment or a string is none, and what a macro is given is read like all else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// `a::b::C` as `["a", "b", "C"]`; of a module in this crate without the `crate`.
pub(crate) type Name = Vec<String>;

/// Something of this crate that code names, and where.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) path: Name,
    pub(crate) line: usize,
    /// Whether it is only handed on: the last word of a `pub use` that the file itself never says again.
    reexport: Option<String>,
}

/// A source file.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) file: String,
    pub(crate) named: Vec<Named>,
    /// Every word, in test code too: its line, and whether `::` joins it to the word before.
    pub(crate) words: Vec<(String, usize, bool)>,
    said: HashMap<String, usize>,
    defined: BTreeSet<String>,
    /// What a `use` brings in: none if it is of another crate.
    imports: HashMap<String, Option<Name>>,
    globs: Vec<Name>,
    test_modules: BTreeSet<Name>,
}

/// All files by their module.
#[derive(Debug, Default)]
pub(crate) struct House {
    pub(crate) sources: BTreeMap<Name, Source>,
}

fn words(path: &[&str]) -> Name {
    path.iter().map(ToString::to_string).collect()
}

fn module_of(file: &str) -> Name {
    let mut name: Name = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if name.last().is_some_and(|last| last == "mod" || last == "lib") {
        name.pop();
    }
    name
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.push((file, fs::read_to_string(&path).unwrap()));
        }
    }
}

impl House {
    /// The house that stands in `src/`.
    pub(crate) fn standing() -> Self {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = Vec::new();
        collect(&src, &src, &mut found);
        Self::new(found)
    }

    /// A house of these files: their paths below `src/`, and their text.
    pub(crate) fn new<F: Into<String>, T: AsRef<str>>(files: impl IntoIterator<Item = (F, T)>) -> Self {
        let mut texts: BTreeMap<Name, (String, TokenStream)> = BTreeMap::new();
        for (file, text) in files {
            let file = file.into();
            let tokens = text.as_ref().parse().unwrap_or_else(|error| panic!("src/{file}: {error}"));
            texts.insert(module_of(&file), (file, tokens));
        }
        let modules: BTreeSet<Name> = texts.keys().cloned().collect();
        let mut sources = BTreeMap::new();
        for (module, (file, tokens)) in texts {
            let mut reader = Reader { modules: &modules, source: Source { file, ..Source::default() } };
            reader.count_words(tokens.clone());
            reader.read(tokens, &module, true);
            sources.insert(module, reader.source);
        }
        let tests: Vec<Name> = sources.values().flat_map(|source| source.test_modules.iter().cloned()).collect();
        for (module, source) in &mut sources {
            if tests.iter().any(|test| module.starts_with(test)) {
                source.named.clear();
            }
        }
        Self { sources }
    }

    /// The module of the file that `path` leads to, and what is left of the path there.
    fn file_of<'a>(&self, path: &'a [String]) -> (Name, &'a [String]) {
        let depth = (0..=path.len()).rev().find(|&n| self.sources.contains_key(&path[..n])).unwrap_or(0);
        (path[..depth].to_vec(), &path[depth..])
    }

    /// The module of the file that declares what `path` names; a file that only imports it or hands
    /// it on is passed through. None: it is of another crate.
    pub(crate) fn declared_in(&self, path: &[String]) -> Option<Name> {
        self.follow(path, 0)
    }

    fn follow(&self, path: &[String], depth: usize) -> Option<Name> {
        let (module, rest) = self.file_of(path);
        let (Some(name), Some(source)) = (rest.first(), self.sources.get(&module)) else { return Some(module) };
        if depth > 16 || source.defined.contains(name) {
            return Some(module);
        }
        if let Some(import) = source.imports.get(name) {
            let import = import.as_ref()?;
            return self.follow(&[import, &rest[1..]].concat(), depth + 1);
        }
        for glob in &source.globs {
            let found = self.follow(&[glob, rest].concat(), depth + 1)?;
            if self.sources.get(&found).is_some_and(|source| source.defined.contains(name)) {
                return Some(found);
            }
        }
        Some(module)
    }

    /// What the code of each file names of other files: (from, to, where).
    pub(crate) fn uses(&self) -> Vec<(&Name, Name, &Source, usize)> {
        let mut uses = Vec::new();
        for (module, source) in &self.sources {
            for named in &source.named {
                let only_here = named.reexport.as_ref().is_some_and(|word| source.said.get(word) == Some(&1));
                // What a module hands on of its own children it does not use.
                let handed_on = |to: &Name| only_here && to.starts_with(module);
                let to = self.declared_in(&named.path).filter(|to| to != module && !handed_on(to));
                uses.extend(to.map(|to| (module, to, source, named.line)));
            }
        }
        uses
    }

    /// In each folder, which of its files and folders names which other, and where: `file:line`.
    pub(crate) fn neighbours(&self) -> BTreeMap<String, Neighbours> {
        let mut folders: BTreeMap<String, Neighbours> = BTreeMap::new();
        for (from, to, source, line) in self.uses() {
            let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            let node = |path: &Name| path.get(shared).map_or("mod.rs", String::as_str).to_owned();
            let place = format!("src/{}:{line}", source.file);
            let edges = folders.entry(from[..shared].join("/")).or_default();
            edges.entry(node(from)).or_default().entry(node(&to)).or_insert(place);
        }
        folders
    }
}

/// Who names whom in a folder, and where first.
pub(crate) type Neighbours = BTreeMap<String, BTreeMap<String, String>>;

/// For each node that is on a cycle the shortest one, as `src/a.rs:1 -> b`; each cycle once.
pub(crate) fn cycles(edges: &Neighbours) -> Vec<String> {
    let mut found: BTreeMap<BTreeSet<&str>, String> = BTreeMap::new();
    for start in edges.keys() {
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = std::collections::VecDeque::from([start.as_str()]);
        while let Some(at) = queue.pop_front() {
            for next in edges.get(at).into_iter().flat_map(BTreeMap::keys) {
                if !came_from.contains_key(next.as_str()) {
                    came_from.insert(next, at);
                    queue.push_back(next);
                }
            }
        }
        let mut members = vec![start.as_str()];
        while let Some(&before) = came_from.get(members[members.len() - 1]) {
            members.push(before);
            if before == start {
                members.reverse();
                let steps: Vec<String> = members
                    .windows(2)
                    .map(|step| format!("{} -> {} ({})", step[0], step[1], edges[step[0]][step[1]]))
                    .collect();
                found.entry(members.iter().copied().collect()).or_insert_with(|| steps.join(", "));
                break;
            }
        }
    }
    found.into_values().collect()
}

struct Reader<'a> {
    modules: &'a BTreeSet<Name>,
    source: Source,
}

fn ident(tree: Option<&TokenTree>) -> Option<String> {
    match tree {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

fn is_punct(tree: Option<&TokenTree>, wanted: char) -> bool {
    matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn is_colons(trees: &[TokenTree], at: usize) -> bool {
    is_punct(trees.get(at), ':') && is_punct(trees.get(at + 1), ':')
}

fn group(tree: Option<&TokenTree>, delimiter: Delimiter) -> Option<&Group> {
    match tree {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => Some(group),
        _ => None,
    }
}

/// Where the item at `at` ends: after its `;`, `,` or braces.
fn end_of_item(trees: &[TokenTree], at: usize) -> usize {
    let ends = |tree: &TokenTree| {
        is_punct(Some(tree), ';') || is_punct(Some(tree), ',') || group(Some(tree), Delimiter::Brace).is_some()
    };
    trees[at..].iter().position(ends).map_or(trees.len(), |n| at + n + 1)
}

impl Reader<'_> {
    fn count_words(&mut self, tokens: TokenStream) {
        let trees: Vec<TokenTree> = tokens.into_iter().collect();
        for (at, tree) in trees.iter().enumerate() {
            match tree {
                TokenTree::Ident(word) => {
                    let joined = at >= 2 && is_colons(&trees, at - 2);
                    self.source.words.push((word.to_string(), word.span().start().line, joined));
                }
                TokenTree::Group(group) => self.count_words(group.stream()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    /// Reads the code of module `here`, without what is only for tests.
    fn read(&mut self, tokens: TokenStream, here: &[String], items: bool) {
        let trees: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < trees.len() {
            let next = trees.get(at + 1);
            if is_punct(trees.get(at), '#')
                && let Some(attribute) = group(next, Delimiter::Bracket)
                && attribute.stream().to_string().replace(' ', "") == "cfg(test)"
            {
                let end = end_of_item(&trees, at + 2);
                let name = (at + 2..end).find(|&n| ident(trees.get(n)).is_some_and(|word| word == "mod"));
                if let Some(name) = name.and_then(|n| ident(trees.get(n + 1))) {
                    self.source.test_modules.insert([here, &[name]].concat());
                }
                at = end;
                continue;
            }
            if let Some(group) =
                trees.get(at).and_then(|tree| if let TokenTree::Group(g) = tree { Some(g) } else { None })
            {
                self.read(group.stream(), here, false);
                at += 1;
                continue;
            }
            let Some(word) = ident(trees.get(at)) else {
                at += 1;
                continue;
            };
            // A field has its name for itself.
            let field = at > 0 && is_punct(trees.get(at - 1), '.') || is_punct(next, ':') && !is_colons(&trees, at + 1);
            *self.source.said.entry(word.clone()).or_default() += usize::from(!field);
            at = match (word.as_str(), ident(next)) {
                // Who may see it is no name of anything.
                ("pub", _) if group(next, Delimiter::Parenthesis).is_some() => at + 2,
                ("use", _) if !is_punct(next, '<') => self.read_use(&trees, at, here),
                ("mod", Some(name)) => match group(trees.get(at + 2), Delimiter::Brace) {
                    Some(body) => {
                        self.read(body.stream(), &[here, &[name]].concat(), false);
                        at + 3
                    }
                    None => at + 2,
                },
                ("struct" | "enum" | "union" | "trait" | "type" | "fn" | "const" | "static", Some(name)) if items => {
                    self.source.defined.insert(name);
                    at + 1
                }
                _ => self.read_path(&trees, at, here),
            };
        }
    }

    /// `a::b::c` in code; a single word or what follows a dot is none.
    fn read_path(&mut self, trees: &[TokenTree], start: usize, here: &[String]) -> usize {
        let (mut at, mut path) = (start + 1, vec![ident(trees.get(start)).unwrap()]);
        while is_colons(trees, at)
            && let Some(word) = ident(trees.get(at + 2))
        {
            *self.source.said.entry(word.clone()).or_default() += 1;
            path.push(word);
            at += 3;
        }
        let joined = start >= 2 && is_colons(trees, start - 2);
        if path.len() > 1
            && !joined
            && let Some(path) = self.absolute(&path, here)
        {
            let line = trees[start].span().start().line;
            self.source.named.push(Named { path, line, reexport: None });
        }
        at
    }

    /// The path from the crate's root; none if it is no path into this crate's modules.
    fn absolute(&self, path: &[String], here: &[String]) -> Option<Name> {
        let (mut base, mut rest) = match path.first()?.as_str() {
            "crate" | "nlmctl" => (Vec::new(), &path[1..]),
            "self" => (here.to_vec(), &path[1..]),
            "super" => (here.to_vec(), path),
            child if self.modules.contains(&[here, &words(&[child])].concat()) => (here.to_vec(), path),
            alias => {
                let import = self.source.imports.get(alias)?.as_ref()?;
                (import.clone(), &path[1..])
            }
        };
        while rest.first().is_some_and(|word| word == "super") {
            base.pop();
            rest = &rest[1..];
        }
        Some([&base, rest].concat())
    }

    fn read_use(&mut self, trees: &[TokenTree], at: usize, here: &[String]) -> usize {
        let end = end_of_statement(trees, at);
        let public = at > 0
            && (ident(trees.get(at - 1)).is_some_and(|word| word == "pub")
                || at > 1 && ident(trees.get(at - 2)).is_some_and(|word| word == "pub"));
        self.read_tree(&trees[at + 1..end], &[], here, public);
        end
    }

    /// One tree of a `use`, below `prefix`.
    fn read_tree(&mut self, trees: &[TokenTree], prefix: &[String], here: &[String], public: bool) {
        for branch in trees.split(|tree| is_punct(Some(tree), ',')) {
            let mut path = prefix.to_vec();
            let mut alias = None;
            let mut at = 0;
            while let Some(tree) = branch.get(at) {
                match tree {
                    TokenTree::Ident(word) if word == "as" => {
                        alias = ident(branch.get(at + 1));
                        at += 1;
                    }
                    TokenTree::Ident(word) => path.push(word.to_string()),
                    TokenTree::Group(group) => {
                        let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                        self.read_tree(&inner, &path, here, public);
                        path.clear();
                        break;
                    }
                    TokenTree::Punct(punct) if punct.as_char() == '*' => path.push("*".to_owned()),
                    TokenTree::Punct(_) | TokenTree::Literal(_) => {}
                }
                at += 1;
            }
            if let Some(line) = branch.first().map(|tree| tree.span().start().line) {
                self.import(path, alias, line, here, public);
            }
        }
    }

    fn import(&mut self, mut path: Name, alias: Option<String>, line: usize, here: &[String], public: bool) {
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let Some(last) = path.last().cloned() else { return };
        let glob = last == "*";
        if glob {
            path.pop();
        }
        let absolute = self.absolute(&path, here);
        if let Some(path) = absolute.clone() {
            let word = alias.clone().unwrap_or(last.clone());
            let reexport = public.then(|| word.clone());
            *self.source.said.entry(word).or_default() += 1;
            if glob {
                self.source.globs.push(path.clone());
            }
            self.source.named.push(Named { path, line, reexport });
        }
        if !glob {
            self.source.imports.insert(alias.unwrap_or(last), absolute);
        }
    }
}

fn end_of_statement(trees: &[TokenTree], at: usize) -> usize {
    trees[at..].iter().position(|tree| is_punct(Some(tree), ';')).map_or(trees.len(), |n| at + n)
}
