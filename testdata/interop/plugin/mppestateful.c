/* pppd plugin: this pppd asks for stateful MPPE. Stock pppd accepts it from a peer but never asks. */
#include <stddef.h>
#include <pppd/pppd.h>
#include <pppd/fsm.h>
#include <pppd/ccp.h>
#include <pppd/mppe.h>

char pppd_version[] = VERSION;

/* The options are set up by require-mppe while the link comes up, so the bit is added late. */
static void phase_changed(void *ctx, int phase)
{
	if (phase == PHASE_AUTHENTICATE || phase == PHASE_NETWORK)
		ccp_wantoptions[0].mppe |= MPPE_OPT_STATEFUL;
}

void plugin_init(void)
{
	add_notifier(&phasechange, phase_changed, NULL);
}
