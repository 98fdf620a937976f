// RUN: not athanor opt --passes optimizer %s 2>&1 | FileCheck %s
// CHECK: P0201
func.func @micro(%w: tensor<3xf32> {nn.name = "w", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true})
    -> (tensor<3xf32> {nn.name = "loss"}) {
  return %w : tensor<3xf32>
}
