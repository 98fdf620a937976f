//! Equality saturation over a function: nodes as e-nodes, rules as plain functions, extraction that knows sharing.

mod choose;

use athanor_ir::func::{Func, Loc, Node, Param, ValueId};
use athanor_ir::op::Op;
use athanor_ir::types::TensorType;
use egg::{Applier, EGraph, Id, Language, PatternAst, Rewrite, Runner, SearchMatches, Searcher, Subst, Symbol};
use std::collections::HashMap;
use std::time::Duration;

/// What an e-node is, but for its operands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Head {
    /// A parameter of the function.
    Leaf(ValueId),
    /// An op with the types of all its results.
    Op(Op, Vec<(athanor_ir::DType, Vec<usize>)>),
    /// What ranks send each other at one place of the program, which this numbers. It is not joined with an equal one: that is
    /// there so that nothing has to be kept in between.
    Sent(usize, Op, Vec<(athanor_ir::DType, Vec<usize>)>),
    /// One result of an op that has several.
    Result(usize),
}

/// An e-node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ENode {
    /// What it is.
    pub head: Head,
    /// Operand classes.
    pub children: Vec<Id>,
}

impl Language for ENode {
    type Discriminant = Head;

    fn discriminant(&self) -> Head {
        self.head.clone()
    }

    fn matches(&self, other: &Self) -> bool {
        self.head == other.head && self.children.len() == other.children.len()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

/// The type of a class (of its first result).
#[derive(Debug, Default)]
pub struct Types {
    leaves: HashMap<ValueId, TensorType>,
}

impl egg::Analysis<ENode> for Types {
    type Data = Vec<TensorType>;

    fn make(egraph: &mut EGraph<ENode, Self>, node: &ENode, _: Id) -> Self::Data {
        match &node.head {
            Head::Leaf(v) => egraph.analysis.leaves.get(v).cloned().into_iter().collect(),
            Head::Op(_, types) | Head::Sent(_, _, types) => {
                types.iter().map(|(d, dims)| TensorType::new(*d, dims.clone())).collect()
            }
            Head::Result(i) => egraph[node.children[0]].data.get(*i).cloned().into_iter().collect(),
        }
    }

    fn merge(&mut self, _: &mut Self::Data, _: Self::Data) -> egg::DidMerge {
        // Equal values have equal types.
        egg::DidMerge(false, false)
    }
}

/// The e-graph that rules look at.
pub type Graph = EGraph<ENode, Types>;

/// What a rule makes: classes that exist, and new ops over them.
#[derive(Debug, Clone)]
pub enum Term {
    /// An existing class.
    Class(Id),
    /// A new op of one result.
    Op(Op, TensorType, Vec<Term>),
    /// One result of a new op of several.
    Part(usize, Op, Vec<TensorType>, Vec<Term>),
}

/// A rewrite: given a node of the graph, an equal term, if the rule applies.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Name, for statistics.
    pub name: &'static str,
    /// The rewrite.
    pub apply: fn(&Graph, &ENode) -> Vec<Term>,
}

impl Searcher<ENode, Types> for Rule {
    fn search_eclass_with_limit(&self, graph: &Graph, class: Id, _: usize) -> Option<SearchMatches<'_, ENode>> {
        let found = graph[class].nodes.iter().any(|n| !(self.apply)(graph, n).is_empty());
        found.then(|| SearchMatches { eclass: class, substs: vec![Subst::default()], ast: None })
    }

    fn vars(&self) -> Vec<egg::Var> {
        vec![]
    }
}

impl Applier<ENode, Types> for Rule {
    fn apply_one(&self, graph: &mut Graph, class: Id, _: &Subst, _: Option<&PatternAst<ENode>>, _: Symbol) -> Vec<Id> {
        let terms: Vec<Term> = graph[class].nodes.iter().flat_map(|n| (self.apply)(graph, n)).collect();
        let mut changed = vec![];
        for term in terms {
            let id = add(graph, &term);
            if graph.union(class, id) {
                changed.push(class);
            }
        }
        changed
    }
}

fn add(graph: &mut Graph, term: &Term) -> Id {
    let head =
        |op: &Op, types: &[TensorType]| Head::Op(op.clone(), types.iter().map(|t| (t.dtype, t.dims.clone())).collect());
    match term {
        Term::Class(id) => *id,
        Term::Op(op, ty, args) => {
            let children = args.iter().map(|a| add(graph, a)).collect();
            graph.add(ENode { head: head(op, std::slice::from_ref(ty)), children })
        }
        Term::Part(i, op, types, args) => {
            let children = args.iter().map(|a| add(graph, a)).collect();
            let tuple = graph.add(ENode { head: head(op, types), children });
            graph.add(ENode { head: Head::Result(*i), children: vec![tuple] })
        }
    }
}

/// Type of a class.
pub fn ty(graph: &Graph, class: Id) -> Option<&TensorType> {
    graph[class].data.first()
}

/// The first node of a class that is an op for which `f` gives something.
pub fn find<T>(graph: &Graph, class: Id, f: impl Fn(&Op, &[Id]) -> Option<T>) -> Option<T> {
    graph[class].nodes.iter().find_map(|n| match &n.head {
        Head::Op(op, _) => f(op, &n.children),
        _ => None,
    })
}

/// Nodes at which saturation stops, as a multiple of the function's own.
const GROWTH: usize = 4;

/// `func` rewritten by `rules`, choosing by `cost`; equal values are computed once.
pub fn rewrite(func: &Func, rules: &[Rule], cost: fn(&Op, &[TensorType], &[TensorType]) -> f64) -> Func {
    let mut graph =
        Graph::new(Types { leaves: func.params.iter().map(|p| (p.value, func.ty(p.value).clone())).collect() });
    let mut ids: HashMap<ValueId, Id> = HashMap::new();
    let mut locs: Vec<(Id, Loc)> = vec![];
    for p in &func.params {
        ids.insert(p.value, graph.add(ENode { head: Head::Leaf(p.value), children: vec![] }));
    }
    for (i, node) in func.nodes.iter().enumerate() {
        let types = node.outputs.iter().map(|o| func.ty(*o)).map(|t| (t.dtype, t.dims.clone())).collect();
        let children = node.inputs.iter().map(|v| ids[v]).collect();
        let head = match &node.op {
            Op::Collective(c) if c.sends() => Head::Sent(i, node.op.clone(), types),
            op => Head::Op(op.clone(), types),
        };
        let id = graph.add(ENode { head, children });
        locs.push((id, node.loc.clone()));
        if let [out] = node.outputs[..] {
            ids.insert(out, id);
        } else {
            for (i, out) in node.outputs.iter().enumerate() {
                ids.insert(*out, graph.add(ENode { head: Head::Result(i), children: vec![id] }));
            }
        }
    }
    let rewrites: Vec<Rewrite<ENode, Types>> = rules.iter().filter_map(|r| Rewrite::new(r.name, *r, *r).ok()).collect();
    graph.rebuild();
    let limit = GROWTH * graph.total_number_of_nodes() + 1000;
    let runner = Runner::<ENode, Types>::new(Types::default())
        .with_egraph(graph)
        .with_node_limit(limit)
        .with_iter_limit(8)
        // Results must not depend on the speed of the machine.
        .with_time_limit(Duration::from_hours(1))
        .run(&rewrites);
    let graph = runner.egraph;
    let mut loc_of: HashMap<Id, Loc> = HashMap::new();
    for (id, loc) in locs {
        loc_of.entry(graph.find(id)).or_insert(loc);
    }
    let roots: Vec<Id> = func.results.iter().map(|r| graph.find(ids[&r.value])).collect();
    let choice = choose::choose(&graph, cost);
    Extraction { graph: &graph, choice, loc_of, func, out: bare(func), done: HashMap::new() }.run(&roots)
}

/// The interface of `func` without its body.
fn bare(func: &Func) -> Func {
    let mut out = Func::new(func.name.clone());
    for p in &func.params {
        let value = out.new_value(func.ty(p.value).clone());
        out.params.push(Param { value, ..p.clone() });
    }
    out
}

struct Extraction<'a> {
    graph: &'a Graph,
    choice: HashMap<Id, ENode>,
    loc_of: HashMap<Id, Loc>,
    func: &'a Func,
    out: Func,
    done: HashMap<Id, Vec<ValueId>>,
}

impl Extraction<'_> {
    fn run(mut self, roots: &[Id]) -> Func {
        for (r, root) in self.func.results.iter().zip(roots) {
            self.emit(*root);
            let value = self.done[root][0];
            self.out.result(r.name.clone(), value);
        }
        self.out
    }

    /// Emits `root` and what it needs, operands first, without recursion: programs are deep.
    fn emit(&mut self, root: Id) {
        let mut stack = vec![(root, false)];
        while let Some((id, ready)) = stack.pop() {
            if self.done.contains_key(&id) {
                continue;
            }
            let node = self.choice[&id].clone();
            let children: Vec<Id> = node.children.iter().map(|c| self.graph.find(*c)).collect();
            if !ready {
                stack.push((id, true));
                stack.extend(children.iter().rev().filter(|c| !self.done.contains_key(c)).map(|c| (*c, false)));
                continue;
            }
            let values = match &node.head {
                Head::Leaf(v) => {
                    let i = self.func.params.iter().position(|p| p.value == *v).unwrap_or(0);
                    vec![self.out.params[i].value]
                }
                Head::Result(i) => vec![self.done[&children[0]][*i]],
                Head::Op(op, types) | Head::Sent(_, op, types) => {
                    let ins: Vec<ValueId> = children.iter().map(|c| self.done[c][0]).collect();
                    let loc = self.loc_of.get(&id).cloned().or_else(|| self.nearby(&ins)).unwrap_or_default();
                    let types = types.iter().map(|(d, dims)| TensorType::new(*d, dims.clone())).collect();
                    self.out.push(op.clone(), &ins, types, &loc)
                }
            };
            self.done.insert(id, values);
        }
    }

    /// A rule's new op has the location of the op that made its first operand.
    fn nearby(&self, ins: &[ValueId]) -> Option<Loc> {
        let first = ins.first()?;
        self.out.nodes.iter().rev().find(|n: &&Node| n.outputs.contains(first)).map(|n| n.loc.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use athanor_ir::collective::{Collective, CollectiveKind};
    use athanor_ir::{Builder, DType, Role, Unary};

    #[test]
    fn equal_values_are_computed_once_and_what_ranks_send_is_sent_as_often_as_it_was() {
        let mut func = Func::new("f");
        let x = func.param("x", TensorType::new(DType::F32, [4]), Role::Input, Loc::default());
        let mut b = Builder::new(&mut func, Loc::default());
        let gather =
            Op::Collective(Collective { kind: CollectiveKind::AllGather { dim: 0 }, axes: "tp".into(), ranks: 2 });
        for name in ["first", "second"] {
            let y = b.unary(Unary::Tanh, x);
            let y = b.many(gather.clone(), &[y])[0];
            b.func.result(name, y);
        }
        let out = rewrite(&func, &[], |_, _, _| 1.0);
        let names: Vec<&str> = out.nodes.iter().map(|n| n.op.name()).collect();
        assert_eq!(names, ["tanh", "all_gather", "all_gather"]);
    }
}
