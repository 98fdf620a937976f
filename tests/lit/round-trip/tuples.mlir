// Operands of one type are operands of the op; operands of differing types travel as a tuple.
// RUN: athanor opt --passes '' %s -o %t/once.mlir
// RUN: athanor opt --passes '' %t/once.mlir | FileCheck %s

// CHECK: %0 = "nn.sum_squares"(%arg0, %arg0) : (tensor<2xf32>, tensor<2xf32>) -> tensor<f64>
// CHECK: %1 = builtin.unrealized_conversion_cast %arg0, %arg1 : tensor<2xf32>, tensor<3xf32> to tuple<tensor<2xf32>, tensor<3xf32>>
// CHECK: %2 = "nn.concat"(%1) {dim = 0 : i64} : (tuple<tensor<2xf32>, tensor<3xf32>>) -> tensor<5xf32>
// CHECK: return %0, %2
func.func @f(%a: tensor<2xf32>, %b: tensor<3xf32>) -> (tensor<f64>, tensor<5xf32>) {
  %0 = "nn.sum_squares"(%a, %a) : (tensor<2xf32>, tensor<2xf32>) -> tensor<f64>
  %t = builtin.unrealized_conversion_cast %a, %b : tensor<2xf32>, tensor<3xf32> to tuple<tensor<2xf32>, tensor<3xf32>>
  %1 = "nn.concat"(%t) {dim = 0 : i64} : (tuple<tensor<2xf32>, tensor<3xf32>>) -> tensor<5xf32>
  return %0, %1 : tensor<f64>, tensor<5xf32>
}
