//! The few calls into MLIR's C interface that decoding and emitting need, as safe functions.
//!
//! Handles are pointers into an MLIR context, which `'c` keeps alive. They are made only here, from that context or
//! from other handles, so they are never null or dangling; that is the SAFETY argument of every call below. Operation
//! and value handles also need their operation alive: the callers hold the module that owns it.

use melior::Context;
#[allow(clippy::wildcard_imports, reason = "every name of the C interface starts with mlir")]
use mlir_sys::*;
use std::marker::PhantomData;

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $raw:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        pub(super) struct $name<'c>(pub(super) $raw, PhantomData<&'c Context>);

        #[allow(dead_code, reason = "not every kind of handle is a key or comes from a call that may give none")]
        impl<'c> $name<'c> {
            /// A key for maps: equal for equal handles of one context.
            pub(super) fn key(self) -> usize {
                self.0.ptr as usize
            }

            fn some(raw: $raw) -> Option<Self> {
                (!raw.ptr.is_null()).then_some(Self(raw, PhantomData))
            }
        }
    };
}

handle!(
    /// An attribute.
    Attr,
    MlirAttribute
);
handle!(
    /// A type.
    Ty,
    MlirType
);
handle!(
    /// A location.
    Place,
    MlirLocation
);
handle!(
    /// A value: block argument or result of an operation.
    Val,
    MlirValue
);
handle!(
    /// An operation inside a module.
    OpRef,
    MlirOperation
);
handle!(
    /// A block inside an operation.
    BlockRef,
    MlirBlock
);

fn text_in(text: &str) -> MlirStringRef {
    MlirStringRef { data: text.as_ptr().cast(), length: text.len() }
}

/// MLIR's bytes as text; `None` if they are not UTF-8.
fn text_out<'c>(raw: MlirStringRef) -> Option<&'c str> {
    if raw.length == 0 {
        return Some("");
    }
    // SAFETY: MLIR gives a pointer to `length` bytes that its context keeps.
    let bytes = unsafe { std::slice::from_raw_parts(raw.data.cast::<u8>(), raw.length) };
    std::str::from_utf8(bytes).ok()
}

/// A context in which handles are made.
#[derive(Clone, Copy)]
pub(super) struct Cx<'c> {
    raw: MlirContext,
    i64: Ty<'c>,
    f64: Ty<'c>,
    u64: Ty<'c>,
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "the module's documentation is the argument for every call")]
impl<'c> Cx<'c> {
    pub(super) fn new(context: &'c Context) -> Self {
        let raw = context.to_raw();
        let ty = |t| Ty(t, PhantomData);
        unsafe {
            Self {
                raw,
                i64: ty(mlirIntegerTypeGet(raw, 64)),
                f64: ty(mlirF64TypeGet(raw)),
                u64: ty(mlirIntegerTypeUnsignedGet(raw, 64)),
            }
        }
    }

    fn attr(raw: MlirAttribute) -> Attr<'c> {
        Attr(raw, PhantomData)
    }

    pub(super) fn text(self, value: &str) -> Attr<'c> {
        Self::attr(unsafe { mlirStringAttrGet(self.raw, text_in(value)) })
    }

    pub(super) fn float(self, value: f64) -> Attr<'c> {
        Self::attr(unsafe { mlirFloatAttrDoubleGet(self.raw, self.f64.0, value) })
    }

    pub(super) fn int(self, value: i64) -> Attr<'c> {
        Self::attr(unsafe { mlirIntegerAttrGet(self.i64.0, value) })
    }

    /// An unsigned 64-bit integer, for numbers that `int` cannot hold.
    pub(super) fn unsigned(self, value: u64) -> Attr<'c> {
        Self::attr(unsafe { mlirIntegerAttrGet(self.u64.0, value as i64) })
    }

    pub(super) fn bool(self, value: bool) -> Attr<'c> {
        Self::attr(unsafe { mlirBoolAttrGet(self.raw, i32::from(value)) })
    }

    pub(super) fn unit(self) -> Attr<'c> {
        Self::attr(unsafe { mlirUnitAttrGet(self.raw) })
    }

    pub(super) fn ints(self, values: &[i64]) -> Attr<'c> {
        Self::attr(unsafe { mlirDenseI64ArrayGet(self.raw, values.len() as isize, values.as_ptr()) })
    }

    pub(super) fn floats(self, values: &[f64]) -> Attr<'c> {
        Self::attr(unsafe { mlirDenseF64ArrayGet(self.raw, values.len() as isize, values.as_ptr()) })
    }

    pub(super) fn array(self, values: &[Attr<'c>]) -> Attr<'c> {
        Self::attr(unsafe { mlirArrayAttrGet(self.raw, values.len() as isize, values.as_ptr().cast()) })
    }

    pub(super) fn named(self, name: &str, value: Attr<'c>) -> MlirNamedAttribute {
        unsafe { mlirNamedAttributeGet(mlirIdentifierGet(self.raw, text_in(name)), value.0) }
    }

    /// A dictionary; names are unique and not empty.
    pub(super) fn dict(self, entries: &[MlirNamedAttribute]) -> Attr<'c> {
        Self::attr(unsafe { mlirDictionaryAttrGet(self.raw, entries.len() as isize, entries.as_ptr()) })
    }

    pub(super) fn symbol(self, name: &str) -> Attr<'c> {
        Self::attr(unsafe { mlirFlatSymbolRefAttrGet(self.raw, text_in(name)) })
    }

    pub(super) fn element(self, name: crate::DType) -> Ty<'c> {
        use crate::DType;
        Ty(
            unsafe {
                match name {
                    DType::F64 => mlirF64TypeGet(self.raw),
                    DType::F32 => mlirF32TypeGet(self.raw),
                    DType::BF16 => mlirBF16TypeGet(self.raw),
                    DType::F16 => mlirF16TypeGet(self.raw),
                    DType::I32 => mlirIntegerTypeGet(self.raw, 32),
                }
            },
            PhantomData,
        )
    }

    /// A ranked tensor; `None` if MLIR refuses the dims.
    pub(super) fn tensor(self, dims: &[i64], element: Ty<'c>) -> Option<Ty<'c>> {
        Ty::some(unsafe {
            let none = mlirAttributeGetNull();
            let at = mlirLocationUnknownGet(self.raw);
            mlirRankedTensorTypeGetChecked(at, dims.len() as isize, dims.as_ptr(), element.0, none)
        })
    }

    pub(super) fn tuple(self, types: &[Ty<'c>]) -> Ty<'c> {
        Ty(unsafe { mlirTupleTypeGet(self.raw, types.len() as isize, types.as_ptr().cast()) }, PhantomData)
    }

    pub(super) fn function(self, ins: &[Ty<'c>], outs: &[Ty<'c>]) -> Ty<'c> {
        let (i, o) = (ins.len() as isize, outs.len() as isize);
        Ty(unsafe { mlirFunctionTypeGet(self.raw, i, ins.as_ptr().cast(), o, outs.as_ptr().cast()) }, PhantomData)
    }

    pub(super) fn unknown(self) -> Place<'c> {
        Place(unsafe { mlirLocationUnknownGet(self.raw) }, PhantomData)
    }

    pub(super) fn file_place(self, file: &str, line: u32, col: u32) -> Place<'c> {
        Place(unsafe { mlirLocationFileLineColGet(self.raw, text_in(file), line, col) }, PhantomData)
    }

    pub(super) fn named_place(self, name: &str, child: Place<'c>) -> Place<'c> {
        Place(unsafe { mlirLocationNameGet(self.raw, text_in(name), child.0) }, PhantomData)
    }

    /// An operation without an owner: the caller appends it to a block at once.
    #[allow(clippy::unused_self, reason = "operations are made in a context, if only by way of their place")]
    pub(super) fn operation(
        self,
        name: &str,
        place: Place<'c>,
        operands: &[Val<'c>],
        results: &[Ty<'c>],
        attributes: &[MlirNamedAttribute],
        body: Option<melior::ir::Region<'c>>,
    ) -> OpRef<'c> {
        use melior::ir::RegionLike;
        unsafe {
            let mut state = mlirOperationStateGet(text_in(name), place.0);
            mlirOperationStateAddOperands(&raw mut state, operands.len() as isize, operands.as_ptr().cast());
            mlirOperationStateAddResults(&raw mut state, results.len() as isize, results.as_ptr().cast());
            mlirOperationStateAddAttributes(&raw mut state, attributes.len() as isize, attributes.as_ptr());
            if let Some(region) = body {
                // The operation owns the region from here on.
                let raw = region.to_raw();
                std::mem::forget(region);
                mlirOperationStateAddOwnedRegions(&raw mut state, 1, &raw const raw);
            }
            // Creation fails only when result types are to be inferred, which is not asked for.
            OpRef(mlirOperationCreate(&raw mut state), PhantomData)
        }
    }

    /// Parses text as one top-level operation, verified; `None` after diagnostics were given to the handler.
    pub(super) fn parse(self, name: &str, text: &std::ffi::CStr) -> Option<melior::ir::Operation<'c>> {
        let source = MlirStringRef { data: text.as_ptr(), length: text.count_bytes() };
        unsafe { melior::ir::Operation::from_option_raw(mlirOperationCreateParse(self.raw, source, text_in(name))) }
    }

    /// Loads the dialect that holds the definitions of dialects.
    pub(super) fn load_irdl(self) {
        unsafe {
            mlirDialectHandleLoadDialect(mlirGetDialectHandle__irdl__(), self.raw);
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "the module's documentation is the argument for every call")]
impl<'c> Attr<'c> {
    pub(super) fn as_text(self) -> Option<&'c str> {
        unsafe { mlirAttributeIsAString(self.0).then(|| text_out(mlirStringAttrGetValue(self.0)))? }
    }

    pub(super) fn as_symbol(self) -> Option<&'c str> {
        unsafe { mlirAttributeIsAFlatSymbolRef(self.0).then(|| text_out(mlirFlatSymbolRefAttrGetValue(self.0)))? }
    }

    pub(super) fn as_float(self, cx: Cx<'c>) -> Option<f64> {
        unsafe {
            let fits = mlirAttributeIsAFloat(self.0) && mlirAttributeGetType(self.0).ptr == cx.f64.0.ptr;
            fits.then(|| mlirFloatAttrGetValueDouble(self.0))
        }
    }

    fn is_int(self, ty: Ty<'c>) -> bool {
        unsafe { mlirAttributeIsAInteger(self.0) && mlirAttributeGetType(self.0).ptr == ty.0.ptr }
    }

    pub(super) fn as_int(self, cx: Cx<'c>) -> Option<i64> {
        self.is_int(cx.i64).then(|| unsafe { mlirIntegerAttrGetValueInt(self.0) })
    }

    pub(super) fn as_unsigned(self, cx: Cx<'c>) -> Option<u64> {
        self.is_int(cx.u64).then(|| unsafe { mlirIntegerAttrGetValueUInt(self.0) })
    }

    pub(super) fn as_bool(self) -> Option<bool> {
        unsafe { mlirAttributeIsABool(self.0).then(|| mlirBoolAttrGetValue(self.0)) }
    }

    pub(super) fn is_unit(self) -> bool {
        unsafe { mlirAttributeIsAUnit(self.0) }
    }

    pub(super) fn as_ints(self) -> Option<Vec<i64>> {
        unsafe {
            mlirAttributeIsADenseI64Array(self.0).then(|| {
                let n = mlirDenseArrayGetNumElements(self.0);
                (0..n).map(|i| mlirDenseI64ArrayGetElement(self.0, i)).collect()
            })
        }
    }

    pub(super) fn as_floats(self) -> Option<Vec<f64>> {
        unsafe {
            mlirAttributeIsADenseF64Array(self.0).then(|| {
                let n = mlirDenseArrayGetNumElements(self.0);
                (0..n).map(|i| mlirDenseF64ArrayGetElement(self.0, i)).collect()
            })
        }
    }

    pub(super) fn as_array(self) -> Option<Vec<Self>> {
        unsafe {
            mlirAttributeIsAArray(self.0).then(|| {
                let n = mlirArrayAttrGetNumElements(self.0);
                (0..n).map(|i| Self(mlirArrayAttrGetElement(self.0, i), PhantomData)).collect()
            })
        }
    }

    /// Entries of a dictionary whose names are UTF-8.
    pub(super) fn as_dict(self) -> Option<Vec<(&'c str, Self)>> {
        unsafe {
            mlirAttributeIsADictionary(self.0).then(|| {
                let n = mlirDictionaryAttrGetNumElements(self.0);
                let entry = |i| {
                    let e = mlirDictionaryAttrGetElement(self.0, i);
                    Some((text_out(mlirIdentifierStr(e.name))?, Self(e.attribute, PhantomData)))
                };
                (0..n).filter_map(entry).collect()
            })
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "the module's documentation is the argument for every call")]
impl<'c> Ty<'c> {
    /// The type as an attribute.
    pub(super) fn attribute(self) -> Attr<'c> {
        Attr(unsafe { mlirTypeAttrGet(self.0) }, PhantomData)
    }

    /// Element type and dims of a ranked tensor without encoding; −1 for a dim that is not static.
    pub(super) fn as_tensor(self) -> Option<(Self, Vec<i64>)> {
        unsafe {
            let plain = mlirTypeIsARankedTensor(self.0) && mlirRankedTensorTypeGetEncoding(self.0).ptr.is_null();
            plain.then(|| {
                let dim =
                    |i| if mlirShapedTypeIsDynamicDim(self.0, i) { -1 } else { mlirShapedTypeGetDimSize(self.0, i) };
                let dims = (0..mlirShapedTypeGetRank(self.0) as isize).map(dim).collect();
                (Self(mlirShapedTypeGetElementType(self.0), PhantomData), dims)
            })
        }
    }

    pub(super) fn is_tuple(self) -> bool {
        unsafe { mlirTypeIsATuple(self.0) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "the module's documentation is the argument for every call")]
impl<'c> Place<'c> {
    /// The place of a diagnostic or another location of melior.
    pub(super) fn of(location: melior::ir::Location<'c>) -> Self {
        Self(location.to_raw(), PhantomData)
    }

    /// Name and inner place of a named place.
    pub(super) fn as_named(self) -> Option<(&'c str, Self)> {
        unsafe {
            mlirLocationIsAName(self.0).then(|| {
                let child = Self(mlirLocationNameGetChildLoc(self.0), PhantomData);
                Some((text_out(mlirIdentifierStr(mlirLocationNameGetName(self.0)))?, child))
            })?
        }
    }

    /// File, line and column.
    pub(super) fn as_file(self) -> Option<(&'c str, u32, u32)> {
        unsafe {
            mlirLocationIsAFileLineColRange(self.0).then(|| {
                let file = text_out(mlirIdentifierStr(mlirLocationFileLineColRangeGetFilename(self.0)))?;
                let line = mlirLocationFileLineColRangeGetStartLine(self.0) as u32;
                Some((file, line, mlirLocationFileLineColRangeGetStartColumn(self.0) as u32))
            })?
        }
    }

    /// The most telling part of a place that other MLIR passes put together: first of a fusion, callee of a call.
    pub(super) fn as_composed(self) -> Option<Self> {
        unsafe {
            if mlirLocationIsACallSite(self.0) {
                return Self::some(mlirLocationCallSiteGetCallee(self.0));
            }
            let n = if mlirLocationIsAFused(self.0) { mlirLocationFusedGetNumLocations(self.0) as usize } else { 0 };
            let mut parts = vec![self.0; n];
            if n > 0 {
                mlirLocationFusedGetLocations(self.0, parts.as_mut_ptr());
            }
            parts.first().copied().and_then(Self::some)
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "the module's documentation is the argument for every call")]
impl<'c> OpRef<'c> {
    /// The operation that melior refers to.
    pub(super) fn of(operation: melior::ir::OperationRef<'c, '_>) -> Self {
        Self(operation.to_raw(), PhantomData)
    }

    /// The operation behind a raw handle of `context`.
    pub(super) fn of_raw(raw: MlirOperation, context: &'c Context) -> Self {
        let _ = context;
        Self(raw, PhantomData)
    }

    /// Full name; empty if it is not UTF-8.
    pub(super) fn name(self) -> &'c str {
        unsafe { text_out(mlirIdentifierStr(mlirOperationGetName(self.0))).unwrap_or_default() }
    }

    pub(super) fn place(self) -> Place<'c> {
        Place(unsafe { mlirOperationGetLocation(self.0) }, PhantomData)
    }

    pub(super) fn attribute(self, name: &str) -> Option<Attr<'c>> {
        Attr::some(unsafe { mlirOperationGetAttributeByName(self.0, text_in(name)) })
    }

    pub(super) fn attribute_count(self) -> usize {
        unsafe { mlirOperationGetNumAttributes(self.0) as usize }
    }

    /// Name of the attribute at `index`, which is below [`OpRef::attribute_count`].
    pub(super) fn attribute_name(self, index: usize) -> &'c str {
        debug_assert!(index < self.attribute_count());
        unsafe { text_out(mlirIdentifierStr(mlirOperationGetAttribute(self.0, index as isize).name)) }
            .unwrap_or_default()
    }

    pub(super) fn set_attribute(self, name: &str, value: Attr<'c>) {
        unsafe { mlirOperationSetAttributeByName(self.0, text_in(name), value.0) };
    }

    pub(super) fn remove_attribute(self, name: &str) {
        unsafe { mlirOperationRemoveAttributeByName(self.0, text_in(name)) };
    }

    pub(super) fn operands(self) -> impl ExactSizeIterator<Item = Val<'c>> {
        let n = unsafe { mlirOperationGetNumOperands(self.0) as usize };
        (0..n).map(move |i| Val(unsafe { mlirOperationGetOperand(self.0, i as isize) }, PhantomData))
    }

    pub(super) fn results(self) -> impl ExactSizeIterator<Item = Val<'c>> {
        let n = unsafe { mlirOperationGetNumResults(self.0) as usize };
        (0..n).map(move |i| Val(unsafe { mlirOperationGetResult(self.0, i as isize) }, PhantomData))
    }

    pub(super) fn region_count(self) -> usize {
        unsafe { mlirOperationGetNumRegions(self.0) as usize }
    }

    /// The blocks of the first region; none if there is no region.
    pub(super) fn blocks(self) -> Vec<BlockRef<'c>> {
        if self.region_count() == 0 {
            return vec![];
        }
        let first = unsafe { mlirRegionGetFirstBlock(mlirOperationGetRegion(self.0, 0)) };
        std::iter::successors(BlockRef::some(first), |b| BlockRef::some(unsafe { mlirBlockGetNextInRegion(b.0) }))
            .collect()
    }

    /// Takes the operation out of its block and frees it with all that is in it; none of its values may be in use.
    pub(super) fn erase(self) {
        unsafe {
            mlirOperationRemoveFromParent(self.0);
            mlirOperationDestroy(self.0);
        }
    }

    /// Prints with locations beside each op.
    pub(super) fn print(self) -> String {
        unsafe extern "C" fn append(chunk: MlirStringRef, to: *mut std::ffi::c_void) {
            // SAFETY: `to` is the String below, which nothing else touches while MLIR prints.
            let to = unsafe { &mut *to.cast::<String>() };
            to.push_str(text_out(chunk).unwrap_or("\u{fffd}"));
        }
        let mut text = String::new();
        unsafe {
            let flags = mlirOpPrintingFlagsCreate();
            mlirOpPrintingFlagsEnableDebugInfo(flags, true, false);
            mlirOpPrintingFlagsUseLocalScope(flags);
            mlirOperationPrintWithFlags(self.0, flags, Some(append), (&raw mut text).cast());
            mlirOpPrintingFlagsDestroy(flags);
        }
        text
    }
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "the module's documentation is the argument for every call")]
impl<'c> Val<'c> {
    pub(super) fn ty(self) -> Ty<'c> {
        Ty(unsafe { mlirValueGetType(self.0) }, PhantomData)
    }

    /// Place of a block argument.
    pub(super) fn place(self) -> Place<'c> {
        Place(unsafe { mlirValueGetLocation(self.0) }, PhantomData)
    }
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "the module's documentation is the argument for every call")]
impl<'c> BlockRef<'c> {
    /// A new block in the new region that is returned with it.
    pub(super) fn in_new_region(args: &[(Ty<'c>, Place<'c>)]) -> (Self, melior::ir::Region<'c>) {
        use melior::ir::RegionLike;
        let types: Vec<MlirType> = args.iter().map(|a| a.0.0).collect();
        let places: Vec<MlirLocation> = args.iter().map(|a| a.1.0).collect();
        let region = melior::ir::Region::new();
        let block = unsafe { mlirBlockCreate(args.len() as isize, types.as_ptr(), places.as_ptr()) };
        unsafe { mlirRegionAppendOwnedBlock(region.to_raw(), block) };
        (Self(block, PhantomData), region)
    }

    pub(super) fn arguments(self) -> impl ExactSizeIterator<Item = Val<'c>> {
        let n = unsafe { mlirBlockGetNumArguments(self.0) as usize };
        (0..n).map(move |i| Val(unsafe { mlirBlockGetArgument(self.0, i as isize) }, PhantomData))
    }

    pub(super) fn operations(self) -> impl Iterator<Item = OpRef<'c>> {
        let first = OpRef::some(unsafe { mlirBlockGetFirstOperation(self.0) });
        std::iter::successors(first, |o| OpRef::some(unsafe { mlirOperationGetNextInBlock(o.0) }))
    }

    /// Appends an operation that nothing owns yet.
    pub(super) fn append(self, operation: OpRef<'c>) -> OpRef<'c> {
        unsafe { mlirBlockAppendOwnedOperation(self.0, operation.0) };
        operation
    }
}
