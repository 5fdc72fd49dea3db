module xpptp/engine/mppe/multi/gen

go 1.26.0
