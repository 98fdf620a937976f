// RUN: athanor opt --passes simplify %s | FileCheck %s

// 0 + x, x − 0, 1·x and x/1 are x. 0 − x is not, nor is 0·x: x may be infinite or no number.
// CHECK: %[[ZERO:.*]] = "nn.constant"() {value = 0.000000e+00 : f64}
// CHECK-NOT: nn.add
// CHECK-NOT: nn.div
// CHECK-DAG: %[[MINUS:.*]] = "nn.sub"(%[[ZERO]], %arg0)
// CHECK-DAG: %[[NONE:.*]] = "nn.mul"(%[[ZERO]], %arg0)
// CHECK: return %arg0, %arg0, %arg0, %arg0, %[[MINUS]], %[[NONE]]
func.func @f(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) {
  %zero = "nn.constant"() {value = 0.0 : f64} : () -> tensor<4xf32>
  %one = "nn.constant"() {value = 1.0 : f64} : () -> tensor<4xf32>
  %0 = "nn.add"(%zero, %x) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %1 = "nn.sub"(%x, %zero) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %2 = "nn.mul"(%one, %x) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %3 = "nn.div"(%x, %one) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %4 = "nn.sub"(%zero, %x) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %5 = "nn.mul"(%zero, %x) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  return %0, %1, %2, %3, %4, %5 : tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>
}
