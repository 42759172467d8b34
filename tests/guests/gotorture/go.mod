module gotorture

go 1.24
