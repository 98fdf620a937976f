//! From a decoded module to MLIR.

use super::ffi::{BlockRef, Cx, OpRef, Place, Ty, Val};
use super::table::{Field, operands, results, visit};
use super::{bare_run, json};
use crate::diag::{Diagnostic, Result};
use crate::func::{Func, Init, Loc, Role, ValueId};
use crate::module::Module;
use crate::op::Op;
use crate::sharding::Sharding;
use crate::types::{DType, TensorType};
use crate::verify::INVALID_IR;
use mlir_sys::MlirNamedAttribute;
use rustc_hash::FxHashMap;

/// Name of the op that bundles values of differing types for a variadic op, and unbundles its results.
pub(super) const BUNDLE: &str = "builtin.unrealized_conversion_cast";

/// Emits functions into one context, remembering types and places that come again.
struct Emitter<'c> {
    cx: Cx<'c>,
    types: FxHashMap<TensorType, Ty<'c>>,
    places: FxHashMap<Loc, Place<'c>>,
}

/// Writes `module` into the empty or filled builtin.module `root`, in place of what it holds.
pub(super) fn emit_into<'c>(cx: Cx<'c>, root: OpRef<'c>, module: &Module) -> Result<()> {
    let [body] = root.blocks()[..] else {
        return Diagnostic::error(&INVALID_IR, "a module has one block").err();
    };
    let old: Vec<OpRef<'c>> = body.operations().collect();
    let mut emitter = Emitter { cx, types: FxHashMap::default(), places: FxHashMap::default() };
    for func in &module.funcs {
        if let Err(e) = emitter.func(func).map(|op| body.append(op)) {
            // What was emitted so far goes again, so that the old module stays whole.
            body.operations().skip(old.len()).collect::<Vec<_>>().into_iter().for_each(OpRef::erase);
            return Err(e);
        }
    }
    old.into_iter().for_each(OpRef::erase);
    root.set_attribute("nn.name", cx.text(&module.name));
    root.set_attribute("nn.level", cx.text(module.level.name()));
    if module.mesh.axes.is_empty() {
        root.remove_attribute("nn.mesh");
    } else {
        let axes: Vec<_> =
            module.mesh.axes.iter().map(|a| cx.array(&[cx.text(&a.name), cx.int(a.size as i64)])).collect();
        root.set_attribute("nn.mesh", cx.array(&axes));
    }
    if module.run == bare_run() {
        root.remove_attribute("nn.run");
    } else {
        let run = serde_json::to_value(&module.run)
            .map_err(|e| Diagnostic::error(&INVALID_IR, format!("the run specification cannot be written: {e}")))?;
        root.set_attribute("nn.run", json::to_attribute(cx, &run));
    }
    Ok(())
}

fn broken<T>(func: &Func, text: impl std::fmt::Display) -> Result<T> {
    Diagnostic::error(&INVALID_IR, format!("@{}: {text}", func.name)).err()
}

impl<'c> Emitter<'c> {
    fn ty(&mut self, func: &Func, value: ValueId) -> Result<Ty<'c>> {
        let Some(ty) = func.types.get(value.0 as usize) else {
            return broken(func, format_args!("value {} has no type", value.0));
        };
        if let Some(known) = self.types.get(ty) {
            return Ok(*known);
        }
        let dims: Option<Vec<i64>> = ty.dims.iter().map(|d| i64::try_from(*d).ok()).collect();
        let made = dims.and_then(|dims| self.cx.tensor(&dims, self.cx.element(ty.dtype)));
        let Some(made) = made else { return broken(func, format_args!("{ty} is not a type that MLIR has")) };
        self.types.insert(ty.clone(), made);
        Ok(made)
    }

    fn tys(&mut self, func: &Func, values: &[ValueId]) -> Result<Vec<Ty<'c>>> {
        values.iter().map(|v| self.ty(func, *v)).collect()
    }

    fn place(&mut self, loc: &Loc) -> Place<'c> {
        if let Some(known) = self.places.get(loc) {
            return *known;
        }
        let mut place = self.cx.unknown();
        // A line without a file says nothing, and MLIR has no empty file name.
        if !loc.file.is_empty() {
            place = self.cx.file_place(&loc.file, loc.line, loc.col);
        }
        if !loc.block.is_empty() {
            place = self.cx.named_place(&loc.block, place);
        }
        self.places.insert(loc.clone(), place);
        place
    }

    fn role(&self, role: &Role) -> Vec<MlirNamedAttribute> {
        let cx = self.cx;
        let of = |name| cx.named("nn.role", cx.text(name));
        match role {
            Role::Input => vec![of("input")],
            Role::Weight { init, decay } => {
                let (kind, value) = match init {
                    Init::Normal { std } => ("normal", *std),
                    Init::Constant { value } => ("constant", *value),
                };
                let init = cx.dict(&[cx.named(kind, cx.float(value))]);
                vec![of("weight"), cx.named("nn.init", init), cx.named("nn.decay", cx.bool(*decay))]
            }
            Role::Moment => vec![of("moment")],
            Role::Grad => vec![of("grad")],
            Role::Handed => vec![of("handed")],
            Role::Cache => vec![of("cache")],
            Role::ExpertBias { load, rate } => {
                vec![of("expert_bias"), cx.named("nn.load", cx.text(load)), cx.named("nn.rate", cx.float(*rate))]
            }
        }
    }

    fn sharding(&self, s: &Sharding) -> Vec<MlirNamedAttribute> {
        let cx = self.cx;
        let axes = |axes: &[String]| cx.array(&axes.iter().map(|a| cx.text(a)).collect::<Vec<_>>());
        let mut attrs = vec![];
        if s.is_cut() {
            let dims: Vec<_> = s.dims.iter().map(|d| axes(d)).collect();
            attrs.push(cx.named("nn.cut", cx.array(&dims)));
        }
        if !s.partial.is_empty() {
            attrs.push(cx.named("nn.partial", axes(&s.partial)));
        }
        attrs
    }

    fn func(&mut self, func: &Func) -> Result<OpRef<'c>> {
        let cx = self.cx;
        let mut args = vec![];
        let mut arg_attrs = vec![];
        for p in &func.params {
            args.push((self.ty(func, p.value)?, self.place(&p.loc)));
            let mut attrs = vec![cx.named("nn.name", cx.text(&p.name))];
            attrs.extend(self.role(&p.role));
            attrs.extend(self.sharding(&p.sharding));
            if !p.memory.is_device() {
                attrs.push(cx.named("nn.memory", cx.text(p.memory.name())));
            }
            arg_attrs.push(cx.dict(&attrs));
        }
        let (block, region) = BlockRef::in_new_region(&args);
        let mut values: Vec<Option<Val<'c>>> = vec![None; func.types.len()];
        for (p, v) in func.params.iter().zip(block.arguments()) {
            values[p.value.0 as usize] = Some(v);
        }
        for node in &func.nodes {
            self.node(func, node, block, &mut values)?;
        }
        let returned: Vec<ValueId> = func.results.iter().map(|r| r.value).collect();
        let operands = lookup(func, &values, &returned)?;
        block.append(cx.operation("func.return", cx.unknown(), &operands, &[], &[], None));
        let ins: Vec<Ty<'c>> = args.iter().map(|a| a.0).collect();
        let outs = self.tys(func, &returned)?;
        let mut attrs = vec![
            cx.named("sym_name", cx.text(&func.name)),
            cx.named("function_type", cx.function(&ins, &outs).attribute()),
        ];
        if !arg_attrs.is_empty() {
            attrs.push(cx.named("arg_attrs", cx.array(&arg_attrs)));
        }
        if !func.results.is_empty() {
            let names = func.results.iter().map(|r| cx.dict(&[cx.named("nn.name", cx.text(&r.name))]));
            attrs.push(cx.named("res_attrs", cx.array(&names.collect::<Vec<_>>())));
        }
        Ok(cx.operation("func.func", cx.unknown(), &[], &[], &attrs, Some(region)))
    }

    fn node(
        &mut self,
        func: &Func,
        node: &crate::func::Node,
        block: BlockRef<'c>,
        values: &mut [Option<Val<'c>>],
    ) -> Result<()> {
        let cx = self.cx;
        let place = self.place(&node.loc);
        let mut ins = lookup(func, values, &node.inputs)?;
        let outs = self.tys(func, &node.outputs)?;
        let made = if let Op::Call { callee } = &node.op {
            let callee = cx.named("callee", cx.symbol(callee));
            block.append(cx.operation("func.call", place, &ins, &outs, &[callee], None))
        } else {
            let mixed = |types: &[Ty<'c>]| types.windows(2).any(|w| w[0].key() != w[1].key());
            let in_types: Vec<Ty<'c>> = ins.iter().map(|v| v.ty()).collect();
            if self::operands(&node.op).1.is_none() && mixed(&in_types) {
                let bundle = block.append(cx.operation(BUNDLE, place, &ins, &[cx.tuple(&in_types)], &[], None));
                ins = bundle.results().collect();
            }
            let mut attrs = vec![];
            visit(&node.op, |name, field| {
                let value = match field {
                    Field::Float(f) => cx.float(f),
                    Field::Int(i) => cx.int(i as i64),
                    Field::Bool(b) => cx.bool(b),
                    Field::Text(t) | Field::Word(t, _) => cx.text(t),
                    Field::Ints(v) => cx.ints(&v.iter().map(|i| *i as i64).collect::<Vec<_>>()),
                    Field::Floats(v) => cx.floats(&v.iter().map(|f| f.0).collect::<Vec<_>>()),
                };
                attrs.push(cx.named(name, value));
            });
            let mut name = String::with_capacity(24);
            name.push_str("nn.");
            name.push_str(node.op.name());
            if results(&node.op).is_none() && mixed(&outs) {
                let bundle = [cx.tuple(&outs)];
                let op = block.append(cx.operation(&name, place, &ins, &bundle, &attrs, None));
                let bundle: Vec<Val<'c>> = op.results().collect();
                block.append(cx.operation(BUNDLE, place, &bundle, &outs, &[], None))
            } else {
                block.append(cx.operation(&name, place, &ins, &outs, &attrs, None))
            }
        };
        for (o, v) in node.outputs.iter().zip(made.results()) {
            values[o.0 as usize] = Some(v);
        }
        Ok(())
    }
}

fn lookup<'c>(func: &Func, values: &[Option<Val<'c>>], ids: &[ValueId]) -> Result<Vec<Val<'c>>> {
    ids.iter()
        .map(|id| match values.get(id.0 as usize) {
            Some(Some(v)) => Ok(*v),
            _ => broken(func, format_args!("value {} is read before it is defined", id.0)),
        })
        .collect()
}

/// Every element type, for the reader's table.
pub(super) const DTYPES: [DType; 5] = [DType::F64, DType::F32, DType::BF16, DType::F16, DType::I32];
