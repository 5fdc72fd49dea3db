package load

import (
	"context"
	"testing"
	"time"
)

func TestSelf(t *testing.T) {
	res, err := SelfTest(context.Background(), SelfTestConfig{Time: time.Second, Rates: []float64{1000}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("bare %.0f gen %.0f (%.2f) call %.0f (%.2f) mppe %.0f", res.Bare, res.Generator, res.GeneratorRatio, res.Calling, res.CallingRatio, res.MPPE)
	for _, p := range res.Pacing {
		t.Logf("%+v err %.4f%%", p, p.Error()*100)
	}
}
